"""The configuration: ``load`` reads and checks all of it, ``peek`` a few keys."""
