"""The emulator's process: `python emulated.py [--as-it-is] PORT PLAIN_PORT CERTIFICATE KEY`.

It runs in the environment of infra/gates/locks/ministack.txt, serves HTTPS on PORT and HTTP on PLAIN_PORT of loopback,
and applies the adaptations of the answers unless `--as-it-is` is given.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack.app import app


def main(arguments: list[str]) -> None:
    as_it_is = "--as-it-is" in arguments
    port, plain_port, certificate, key = (word for word in arguments if word != "--as-it-is")
    if not as_it_is:
        # Last in the path, so that no module of this project hides one that the emulator imports.
        sys.path.append(str(Path(__file__).resolve().parents[3]))
        from tests.support.ministack.adaptations import ADAPTATIONS

        for adaptation in ADAPTATIONS:
            if adaptation.answers:
                adaptation.answers()
    # It would log a traceback for each client that disconnects abruptly.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    config = Config()
    config.bind, config.insecure_bind = [f"127.0.0.1:{port}"], [f"127.0.0.1:{plain_port}"]
    config.certfile, config.keyfile = certificate, key
    config.keep_alive_timeout = 75
    asyncio.run(serve(app, config))


if __name__ == "__main__":
    main(sys.argv[1:])
