"""The real template and packages, built and deployed by the real SAM CLI to ministack, an emulator of AWS.

Nothing here uses `scripts/local` or `infra/local_stack`. The emulator verifies signatures and enforces every policy.

adaptations.py  the one table of what the emulator does not do as AWS does
emulated.py     the emulator's process, with the answers of that table adapted
emulator.py     starts it; the environment in which a person's commands reach it
names.py        a proxy that stands in for DNS: AWS's names lead to the emulator, and nothing leaves this machine
clone.py        a copy of the clone to deploy from, and the commands that a person types there
walk.py         runs the marked sh blocks of a page, in their order
server.py       one deployed stack, as its operator, its publishers and its clients see it
"""
