"""The command line.

``parser`` says what can be written, as data; ``actions`` does it, module for module and name for
name. An action is imported when its command runs: ``dmsnap --version`` loads neither the catalogue
nor the native core. Nothing below this package prints or exits.
"""
