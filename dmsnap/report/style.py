"""The page's style sheet. HTML takes it as it stands and XML does not: no <, > or & in it."""

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }
h2 { border-top: 1px solid; padding-top: 1em; margin-top: 2em; }
h1, h2, td, li, dd { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.2em 1em 0.2em 0; }
thead { border-bottom: 1px solid; }
dl { display: grid; grid-template-columns: max-content auto; gap: 0.2em 1.5em; }
dd { margin: 0; }
svg { width: 100%; height: auto; }
svg text { font-size: 11px; fill: currentColor; }
.tick { stroke: currentColor; stroke-opacity: 0.25; }
.live { fill: #2a8f5c; }
.replica { fill: #c2571a; }
.history { fill: #3a6fc4; }
.nowhere { fill: #888888; }
.gone { fill-opacity: 0.3; }
.faulty { fill: none; stroke: #c62828; }
.bytes { fill: #3a6fc4; }
.wrong { color: #c62828; font-weight: bold; }
"""
