"""The commands of `scripts/admin`; importing a module of this package adds its commands to the group."""
