"""Weights to start from: those that the authors of a network published, and those that this package ships.

Published files are looked for in the caches of huggingface_hub and torch.hub first, without asking the network.
"""

import logging
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit

import huggingface_hub
import torch
from huggingface_hub.errors import EntryNotFoundError

from alu_defects.errors import UserError

_log = logging.getLogger(__name__)

SURFACES = "surfaces"  # the value of model.pretrained for the weights that this package ships
SECONDS = 4.0  # until a server must have answered; huggingface_hub alone tries for 48 seconds without a network
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm looks for them


class NoAnswerError(UserError):
    """A server did not answer: there is probably no network."""


class Shipped(NamedTuple):
    """A file in the folder `shipped`: fp16 safetensors of a network; its classifier may be for other classes."""

    file: str
    licence: str

    @property
    def path(self) -> Path:
        """Where it lies."""
        return Path(__file__).with_name("shipped") / self.file


# `Published.network` → the weights of generated surfaces that this package has for it
SHIPPED: dict[str, Shipped] = {}


@dataclass(frozen=True)
class Published:
    """The published weights of one network.

    Args:
        network: its name in timm or torchvision, which inceptionv4 and inceptionv4_scse share.
        licence: of the weights, as their publisher names it; "" if he does not.
        hub_id: in the Hugging Face hub, such as timm/resnet18.a1_in1k, or "".
        url: of the file, where it is not in the hub, or "". Without both nothing is published.
        classes: width of their classifier; 0: they have none.
    """

    network: str
    licence: str = ""
    hub_id: str = ""
    url: str = ""
    classes: int = 1000

    @property
    def name(self) -> str:
        """What tells these weights from others: the identifier in the hub, or the name of the file."""
        return self.hub_id or self._file_name

    @property
    def exists(self) -> bool:
        """Whether anything is published."""
        return bool(self.hub_id or self.url)

    @property
    def address(self) -> str:
        """The page or the file in the internet."""
        return f"https://huggingface.co/{self.hub_id}" if self.hub_id else self.url

    @property
    def by_hand(self) -> Path:
        """Where the file may be put on a machine without a network; also where torch.hub puts what it downloads."""
        return Path(torch.hub.get_dir(), "checkpoints", self._file_name)

    @property
    def _file_name(self) -> str:
        return f"{self.hub_id.split('/')[-1]}.safetensors" if self.hub_id else Path(urlsplit(self.url).path).name

    def cached(self) -> Path | None:
        """The file on this machine, or None; the network is not asked."""
        for name in _HUB_FILES if self.hub_id else ():
            found = huggingface_hub.try_to_load_from_cache(self.hub_id, name)
            if isinstance(found, str):  # not None, nor the mark of a file that the hub does not have
                return Path(found)
        return self.by_hand if self.exists and self.by_hand.is_file() else None

    def download(self) -> Path:
        """Download the file into its cache; raises `NoAnswerError` after `SECONDS` without an answer, or anything."""
        if not self.hub_id:
            _check_answer(self.url)
            self.by_hand.parent.mkdir(parents=True, exist_ok=True)
            match = torch.hub.HASH_REGEX.search(self._file_name)
            torch.hub.download_url_to_file(self.url, str(self.by_hand), match and match[1], progress=False)
            return self.by_hand
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            raise NoAnswerError("HF_HUB_OFFLINE is set")
        _check_answer(huggingface_hub.hf_hub_url(self.hub_id, _HUB_FILES[0]))
        try:
            return Path(huggingface_hub.hf_hub_download(self.hub_id, _HUB_FILES[0]))
        except EntryNotFoundError:
            return Path(huggingface_hub.hf_hub_download(self.hub_id, _HUB_FILES[1]))


def fetch(published: Published, download: bool = True) -> tuple[Path, str]:
    """The file with published weights, and where it was: in the "cache", or it is a "download".

    Raises:
        NoAnswerError: it is not on this machine, and the server does not answer, or `download` forbids asking it.
        UserError: nothing is published, or it cannot be downloaded for another reason.
    """
    if found := published.cached():
        return found, "cache"
    if not published.exists:
        raise UserError(f"no weights of {published.network} are published")
    try:
        if not download:
            raise NoAnswerError("no network, as another job of this sweep found")
        _log.info("Looking for %s", published.address)
        return published.download(), "download"
    except Exception as error:  # a connection, its server and a hash that differs raise almost anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        kind = NoAnswerError if isinstance(error, NoAnswerError) else UserError
        raise kind(
            f"The published weights of {published.network} cannot be loaded: {reason}. Fetch {published.address} "
            f"where there is a network and put the file here as {published.by_hand}; or give model.weights=<file>, or "
            "model.pretrained=false"
        ) from error


def shipped_file(network: str) -> Path:
    """The file with the weights that this package ships for a network; a `UserError` without one."""
    if network not in SHIPPED:
        known = ", ".join(sorted(SHIPPED)) or "no network yet"
        raise UserError(
            f"model.pretrained={SURFACES}: this version has no such weights for {network}, only for: {known}. "
            "Give model.pretrained=auto or false"
        )
    return SHIPPED[network].path


def _check_answer(url: str) -> None:
    """Raise a `NoAnswerError` if the server of a file does not answer in time.

    In a thread, since looking up a name cannot be given a time-out. What the answer says is seen when downloading.
    """
    problem = [f"no answer within {SECONDS:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS):
                problem[0] = ""
        except HTTPError:
            problem[0] = ""
        except Exception as error:  # not OSError alone: also what is no HTTP
            problem[0] = str(getattr(error, "reason", error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if reason := problem[0]:
        raise NoAnswerError(f"{urlsplit(url).netloc or url}: {reason}")
