"""The real template and packages, built and deployed by the real SAM CLI to ministack, an emulator of AWS.

Nothing here uses `scripts/local` or `infra/local_stack`. The emulator verifies signatures and enforces every policy.

adaptations.py  the one table of differences between the emulator and AWS
emulated.py     the emulator's process, with the answers of that table adapted
emulator.py     starts it; the environment in which commands reach it
names.py        a proxy in place of DNS: AWS's names resolve to the emulator, and nothing leaves this machine
clone.py        a copy of the clone to deploy from, and the commands typed there
walk.py         runs the marked sh blocks of a page, in their order
server.py       one deployed stack, as its operator, its publishers and its clients see it
"""
