"""The simplestreams format and the rules of this server, as pure functions.

Nothing in this package reads a clock, an environment or a network; a test imports it in a fresh
interpreter and checks that no AWS library came along. Where to look:

keys       object keys <-> stream, product, version, file
items      file names -> ftype, role and combined sha256 field
archive    what a metadata or unified tarball says, read within limits
metadata   metadata.json, image.yaml, metadata.yaml, SHA256SUMS
digests    sha256 and combined sha256 in one pass
records    what was found out about one version, and the verdict on it
fold       records -> products document and index: the catalog
"""
