"""One module for each version of the schema; what is in them stays as it is once released.

Tables are spelled out here and not taken from ``schema``, which goes on changing.
"""
