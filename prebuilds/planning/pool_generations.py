"""Finds the presets that are generations of one pool, while a new version of a template replaces an older one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from uuid import UUID

from prebuilds.planning.rollouts import Strategy
from prebuilds.planning.snapshot import Preset, PresetCounts


def is_led(preset: Preset) -> bool:
    """Return whether a preset's pool replaces older generations step by step, so that they are planned with it."""
    rollout = preset.rollout
    return preset.active and rollout is not None and rollout.policy.strategy is Strategy.SURGE


def other_generations(presets: Sequence[PresetCounts]) -> dict[UUID, list[PresetCounts]]:
    """Return the other generations of each preset's pool, where `max_concurrent` counts them."""
    limited = {
        (item.preset.template_id, item.preset.name) for item in presets if item.preset.max_concurrent is not None
    }
    by_pool: dict[tuple[UUID | None, str], list[PresetCounts]] = defaultdict(list)
    for item in presets if limited else ():
        if (pool := (item.preset.template_id, item.preset.name)) in limited and pool[0] is not None:
            by_pool[pool].append(item)
    return {item.preset.id: [one for one in pool if one is not item] for pool in by_pool.values() for item in pool}


def group_generations(presets: Iterable[PresetCounts]) -> list[list[PresetCounts]]:
    """Return the generations of each pool that has several, the new one first and the others in the order given."""
    by_pool: dict[tuple[UUID | None, str], list[PresetCounts]] = defaultdict(list)
    for item in presets:
        if item.preset.rollout is not None:
            by_pool[item.preset.template_id, item.preset.name].append(item)
    found = []
    for items in by_pool.values():
        new = next((item for item in items if is_led(item.preset)), None)
        if new is not None and len(items) > 1:
            found.append([new, *(item for item in items if item is not new)])
    return found
