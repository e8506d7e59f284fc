"""Decide on images from a browser or over HTTP: `python -m alu_defects.serve run=runs/<run>`."""

import os
import signal
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from alu_defects.cli import verb
from alu_defects.config import check_settings
from alu_defects.errors import UserError

if TYPE_CHECKING:
    from alu_defects.deployment.model_slot import ModelSlot


def serve(config: DictConfig) -> None:
    """Serve a page on which images are dropped, and the same over HTTP, until SIGTERM or Ctrl-C.

    Requests that have begun are answered first. SIGHUP reads the network again.

    Raises:
        UserError: no such run or device, a folder that cannot be written, an address that is in use, a host that others
            can reach without a token.
    """
    check_settings(config)
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise UserError(f"serve needs {' and '.join(missing)}: pip install {' '.join(missing)}")

    from alu_defects.deployment import access, server
    from alu_defects.deployment.labels import Labels
    from alu_defects.deployment.model_slot import ModelSlot
    from alu_defects.deployment.predictor import Predictor

    access.check_access(config.host, config.token)
    with server.listen(config.host, config.port) as socket:
        slot = ModelSlot(lambda: Predictor.load(config.run, device=config.device, max_pixels=config.max_pixels))
        labels = None
        if config.labels:
            labels = Labels(Path(os.path.expanduser(config.labels)).absolute())  # noqa: PTH111 (as of predict)
        app = server.Service(
            slot,
            labels,
            host=config.host,
            token=config.token,
            queue=config.queue,
            max_bytes=config.max_bytes,
            timeout=config.timeout,
        ).app()
        _reload_on_sighup(slot)
        print(f"{slot.file} decides at {server.url(socket)} (Ctrl-C ends)", flush=True)
        server.create_server(app).run(sockets=[socket])


def _reload_on_sighup(slot: "ModelSlot") -> None:
    if not hasattr(signal, "SIGHUP"):  # Windows
        return

    def reload() -> None:
        with suppress(UserError):  # it is in the log
            slot.reload()

    signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=reload).start())


@verb("serve")
def main(config: DictConfig) -> None:
    """Serve the network that the command line names."""
    serve(config)


if __name__ == "__main__":
    main()
