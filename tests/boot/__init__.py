"""`make boot-test`: the Debian package on booted Debian releases, as an operator meets it (as root)."""
