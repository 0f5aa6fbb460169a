"""The emulator's process: `python emulated.py [--as-it-is] PORT PLAIN_PORT CERTIFICATE KEY`.

It runs in the environment of infra/gates/locks/ministack.txt, serves HTTPS on PORT and HTTP on PLAIN_PORT of loopback,
and applies the adaptations of the answers unless `--as-it-is` is given.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack.app import app


def main(arguments: list[str]) -> None:
    as_it_is = "--as-it-is" in arguments
    port, plain_port, certificate, key = (word for word in arguments if word != "--as-it-is")
    if not as_it_is:
        # Behind everything that is there, so that no module of the tests can stand in front of one of ministack's.
        sys.path.append(str(Path(__file__).resolve().parents[2]))
        from tests.deployment.adaptations import ADAPTATIONS

        for adaptation in ADAPTATIONS:
            if adaptation.answers:
                adaptation.answers()
    config = Config()
    config.bind, config.insecure_bind = [f"127.0.0.1:{port}"], [f"127.0.0.1:{plain_port}"]
    config.certfile, config.keyfile = certificate, key
    config.keep_alive_timeout = 75
    asyncio.run(serve(app, config))


if __name__ == "__main__":
    main(sys.argv[1:])
