"""Metrics for monitoring."""

from dmsnap.cli.output import Output
from dmsnap.service.health import metrics as service
from dmsnap.service.session import Session


def metrics(output: Output) -> None:
    with Session.open() as session:
        text = service.text(session)
    output.show({"text": text}, lambda _: [text.removesuffix("\n")])
