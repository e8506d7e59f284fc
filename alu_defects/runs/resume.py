"""Which words of the command that resumes a run would make it another run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf import OmegaConf

from alu_defects.config import absolute_paths, compose, conf_dir, flat
from alu_defects.overrides import PATH_SETTINGS, setting_of

if TYPE_CHECKING:  # it imports this module
    from alu_defects.runs.run import Run

# settings that a resumed run may change
FREE_ON_RESUME = ("trainer.", "data.root=", "data.table=")  # the images may have been moved: their content is compared
FIXED_ON_RESUME = ("trainer.max_epochs=",)  # the schedule was laid out for it

_CHOSEN = {"model.pretrained": "auto"}  # setting → the value in whose place config.yaml has what was chosen


def changing_overrides(run: "Run", words: Sequence[str]) -> list[str]:
    """The words, without resume=…, that would give a run another setting than the one that it has.

    They are applied on top of those that the run was started with: `model=xception` changes nothing of a run that was
    started with `model=xception model.drop_rate=0.3`, and `experiment=paper` nothing of a run of that experiment. Nor
    does a word of the start itself, even if it is a path that would mean another folder here.
    """
    own = run.status()["overrides"]
    started = _last(own)
    words = [word for key, word in _last(words).items() if started.get(key) != word]
    if not words:
        return []
    has = _leaves(run.config())
    own = [*own, f"run_dir={has.get('run_dir')}"]
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    values = {setting_of(word) for word in words} - groups
    try:
        composed = absolute_paths(compose("train", [*own, *words]))
        OmegaConf.resolve(composed)
        before = _leaves(compose("train", own))  # not resolved: what follows from other settings is not of the word
        chosen = {word: _leaves(compose("train", [*own, word])) for word in words if setting_of(word) in groups}
    except HydraException:  # a setting of the run that another network does not have, say
        return words
    after = _leaves(composed)
    # What a choice leaves open, ???, changes nothing, nor what was left to the run to choose. Paths of the run's own
    # words were relative to another folder.
    differ = {
        key
        for key in after.keys() | has.keys()
        if after.get(key) not in (has.get(key), "???", _CHOSEN.get(key, "???"))
        and (key in values or key not in PATH_SETTINGS)
    }

    def changes(word: str) -> bool:
        below = {key for key in differ if f"{key}.".startswith(f"{setting_of(word)}.")}
        if word not in chosen:
            return bool(below)
        # experiment=paper sets what has other names; and a value that is typed beside a choice counts for itself
        elsewhere = {key for key in differ if chosen[word].get(key) != before.get(key)}
        return bool((below | elsewhere) - values)

    return [word for word in words if changes(word)]


def _last(words: Sequence[str]) -> dict[str, str]:
    """The last word about each setting or group: the one that counts."""
    return {setting_of(word): word for word in words}


def _leaves(config: Any) -> dict[str, Any]:
    """Every setting that is not a group of settings."""
    return {key: value for key, value in flat(config).items() if not isinstance(value, dict)}
