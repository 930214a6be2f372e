"""Philox4x32-10 in NumPy, and the random numbers that an environment draws with it."""

from __future__ import annotations

import numpy as np

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Random words ``[…, 4]`` for counters ``[…, 4]`` and keys ``[…, 2]``, all of 32 bits in uint64.

    From Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
    """
    words, key = counter.astype(np.uint64), key.astype(np.uint64)
    for _ in range(10):
        even = np.uint64(0xD2511F53) * words[..., 0]
        odd = np.uint64(0xCD9E8D57) * words[..., 2]
        words = np.stack(
            [
                (odd >> _HALF) ^ words[..., 1] ^ key[..., 0],
                odd & _MASK,
                (even >> _HALF) ^ words[..., 3] ^ key[..., 1],
                even & _MASK,
            ],
            axis=-1,
        )
        key = (key + np.array([0x9E3779B9, 0xBB67AE85], np.uint64)) & _MASK
    return words


def first_integers(
    key: np.ndarray, episode: np.ndarray, step: np.ndarray, agents: np.ndarray, count: int
) -> np.ndarray:
    """What ``random(agent).integer(count)`` draws first.

    Args:
        key: int64 ``[E]``, the copies' ``env.state.key``.
        episode: ``[E]``, their ``env.state.episode``.
        step: ``[E]``, their ``env.state.step`` after the step in which the numbers are drawn.
        agents: ``[n]``, the agents that draw.
        count: the integers are below it.

    Returns:
        int64 ``[E, n]``.
    """
    bits = key.astype(np.int64).view(np.uint64)
    keys = np.stack([bits & _MASK, bits >> _HALF], axis=-1)[:, None]
    counters = np.zeros((len(key), len(agents), 4), np.uint64)
    counters[..., 0], counters[..., 1], counters[..., 2] = episode[:, None], step[:, None], agents
    return ((philox(counters, keys)[..., 0] * np.uint64(count)) >> _HALF).astype(np.int64)
