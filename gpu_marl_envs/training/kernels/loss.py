"""The losses of actor-critics with categorical actions, and their gradients, in one pass over the rows.

The formulas are those of ``ppo.py``, ``a2c.py`` and ``distributions.py``. A program takes tile after tile of rows. Each
row lies on ``LANES`` threads next to each other, which share the choices of a component, so that loads and stores are
of neighbouring numbers while most of a sum over the choices stays within a thread.
"""

import triton
import triton.language as tl

from gpu_marl_envs.training import distributions

IMPOSSIBLE = tl.constexpr(distributions.IMPOSSIBLE)
BEHIND_THE_LAST = tl.constexpr(2 * distributions.IMPOSSIBLE)  # no choice, even where all are impossible
TERMS = tl.constexpr(5)  # objective of the policy, error of the value, entropy, KL divergence, share that is clipped


@triton.jit(do_not_specialize=["rows"])
def loss(
    logits,  # [rows, COMPONENTS * CHOICES], in rows that row_stride separates
    value,  # [rows], like all with one number a row
    action,  # [rows, COMPONENTS]
    mask,  # bool [rows, COMPONENTS * CHOICES], the allowed choices; None allows all
    old_log_prob,
    advantage,
    old_value,  # None leaves values free to leave it
    target,
    weight,
    counts,  # [COMPONENTS], of choices
    total_weight,  # one number, as are the coefficients
    clip_range,  # None for the objective of A2C
    entropy_coefficient,
    logit_gradients,  # [rows, COMPONENTS * CHOICES]
    value_gradients,
    sums,  # [TERMS, programs]: what each program adds to the terms
    rows,
    row_stride,
    value_stride,
    value_coefficient,
    COMPONENTS: tl.constexpr,
    CHOICES: tl.constexpr,
    TILE: tl.constexpr,
    LANES: tl.constexpr,
):
    """The sums of the terms over all rows, and the gradients of the loss."""
    share = 1.0 / tl.load(total_weight)  # of a row in a mean
    exploration = tl.load(entropy_coefficient) * share
    objectives = tl.zeros((TILE,), tl.float32)
    value_errors = tl.zeros((TILE,), tl.float32)
    entropies = tl.zeros((TILE,), tl.float32)
    divergences = tl.zeros((TILE,), tl.float32)
    clipped = tl.zeros((TILE,), tl.float32)

    for tile in range(tl.program_id(0), tl.cdiv(rows, TILE), tl.num_programs(0)):
        row = (tile * TILE + tl.arange(0, TILE)).to(tl.int64)
        exists = row < rows
        counted = tl.load(weight + row, mask=exists, other=0.0) > 0.0

        components = ()
        log_prob = tl.zeros((TILE,), tl.float32)
        entropy = tl.zeros((TILE,), tl.float32)
        for component in tl.static_range(COMPONENTS):
            taken = tl.load(action + row * COMPONENTS + component, mask=exists, other=0)
            count = tl.load(counts + component)
            distribution = _distribution(
                logits + row * row_stride + component * CHOICES,
                None if mask is None else mask + row * (COMPONENTS * CHOICES) + component * CHOICES,
                taken,
                exists,
                count,
                CHOICES,
                LANES,
            )
            components = components + (distribution,)
            log_prob += distribution[0]
            entropy += distribution[1]

        # What the means are of, and their derivatives.
        given_advantage = tl.load(advantage + row, mask=exists, other=0.0)
        if clip_range is None:
            objective = log_prob * given_advantage
            slope = given_advantage
        else:
            epsilon = tl.load(clip_range)
            log_ratio = log_prob - tl.load(old_log_prob + row, mask=exists, other=0.0)
            ratio = tl.exp(log_ratio)
            free = ratio * given_advantage
            limited = tl.clamp(ratio, 1.0 - epsilon, 1.0 + epsilon, tl.PropagateNan.ALL) * given_advantage
            objective = tl.minimum(free, limited, tl.PropagateNan.ALL)
            slope = tl.where(free > limited, 0.0, free)
            divergences += tl.where(counted, ratio - 1.0 - log_ratio, 0.0)
            clipped += tl.where(counted & (tl.abs(ratio - 1.0) > epsilon), 1.0, 0.0)
        given_value = tl.load(value + row * value_stride, mask=exists, other=0.0)
        wanted_value = tl.load(target + row, mask=exists, other=0.0)
        difference = given_value - wanted_value
        value_error = difference * difference
        if old_value is not None:
            epsilon = tl.load(clip_range)
            former_value = tl.load(old_value + row, mask=exists, other=0.0)
            step = given_value - former_value
            near = former_value + tl.clamp(step, -epsilon, epsilon, tl.PropagateNan.ALL) - wanted_value
            difference = tl.where((tl.abs(step) > epsilon) & (near * near > value_error), 0.0, difference)
            value_error = tl.maximum(value_error, near * near, tl.PropagateNan.ALL)
        objectives += tl.where(counted, objective, 0.0)
        value_errors += tl.where(counted, value_error, 0.0)
        entropies += tl.where(counted, entropy, 0.0)

        value_gradient = tl.where(counted, value_coefficient * share * difference, 0.0)
        tl.store(value_gradients + row, value_gradient, mask=exists)
        policy_gradient = tl.where(counted, -slope * share, 0.0)
        entropy_gradient = tl.where(counted, exploration, 0.0)
        for component in tl.static_range(COMPONENTS):
            _store_gradients(
                logit_gradients + row * (COMPONENTS * CHOICES) + component * CHOICES,
                components[component],
                policy_gradient,
                entropy_gradient,
                exists,
                CHOICES,
                LANES,
            )

    place, step = sums + tl.program_id(0), tl.num_programs(0)
    tl.store(place, tl.sum(objectives, 0))
    tl.store(place + step, tl.sum(value_errors, 0))
    tl.store(place + 2 * step, tl.sum(entropies, 0))
    tl.store(place + 3 * step, tl.sum(divergences, 0))
    tl.store(place + 4 * step, tl.sum(clipped, 0))


@triton.jit(do_not_specialize=["programs"])
def finish(
    sums,  # [TERMS, programs]
    total_weight,
    entropy_coefficient,
    loss,  # one number
    terms,  # [TERMS]
    programs,
    value_coefficient,
    TILE: tl.constexpr,
):
    """The loss and its terms, from sums that are always added in the same order."""
    share = 1.0 / tl.load(total_weight)
    policy_loss = -share * _sum(sums, programs, TILE)
    value_loss = 0.5 * share * _sum(sums + programs, programs, TILE)
    entropy = share * _sum(sums + 2 * programs, programs, TILE)
    tl.store(loss, policy_loss + value_coefficient * value_loss - tl.load(entropy_coefficient) * entropy)
    tl.store(terms, policy_loss)
    tl.store(terms + 1, value_loss)
    tl.store(terms + 2, entropy)
    tl.store(terms + 3, share * _sum(sums + 3 * programs, programs, TILE))
    tl.store(terms + 4, share * _sum(sums + 4 * programs, programs, TILE))


@triton.jit(do_not_specialize=["rows"])
def scale(
    logit_gradients,
    value_gradients,
    factor,  # one number
    rows,
    WIDTH: tl.constexpr,  # of a row of logits
    TILE: tl.constexpr,
):
    """Multiplies gradients by a factor; where that is 1, as nearly always, nothing is read but the factor."""
    by = tl.load(factor)
    if by != 1.0:
        _scale(value_gradients, rows.to(tl.int64), by, TILE)
        _scale(logit_gradients, rows.to(tl.int64) * WIDTH, by, TILE)


# ---- one component of the actions ----


@triton.jit
def _distribution(logits, mask, taken, exists, count, CHOICES: tl.constexpr, LANES: tl.constexpr):
    """What :func:`_store_gradients` needs of a component.

    Log-probability of the choice that was taken, entropy, and the logarithm of the sum of all exponentials, ``[TILE]``
    each; the choice; then of each part of the choices ``[TILE, LANES]`` logarithms, less a constant of the row, and
    exponentials of the logits, and whether a choice is possible.
    """
    parts: tl.constexpr = (CHOICES + LANES - 1) // LANES
    choice = tl.arange(0, LANES)[None, :]
    highest = tl.full((taken.shape[0],), BEHIND_THE_LAST, tl.float32)
    given, possible = (), ()
    for part in tl.static_range(parts):
        there = exists[:, None] & (choice + part * LANES < CHOICES)
        allowed = there & (choice + part * LANES < count)
        if mask is not None:
            allowed &= tl.load(mask[:, None] + part * LANES + choice, mask=there, other=0).to(tl.int1)
        logit = tl.load(logits[:, None] + part * LANES + choice, mask=allowed, other=IMPOSSIBLE)
        logit = tl.where(choice + part * LANES < CHOICES, logit, BEHIND_THE_LAST)
        highest = tl.maximum(highest, tl.max(logit, 1))
        given = given + (logit,)
        possible = possible + (allowed,)
    shifted, exponentials = (), ()
    zeros = tl.zeros((taken.shape[0], LANES), tl.float32)
    total, expected, of_taken = zeros, zeros, zeros
    for part in tl.static_range(parts):
        below = given[part] - highest[:, None]
        exponential = tl.exp(below)
        total += exponential
        expected += exponential * below
        of_taken += tl.where(choice + part * LANES == taken[:, None], below, 0.0)
        shifted = shifted + (below,)
        exponentials = exponentials + (exponential,)
    sum_of_exponentials = tl.sum(total, 1)
    log_sum = tl.log(sum_of_exponentials)
    log_prob = tl.sum(of_taken, 1) - log_sum
    entropy = log_sum - tl.sum(expected, 1) / sum_of_exponentials
    return log_prob, entropy, log_sum, sum_of_exponentials, taken, shifted, exponentials, possible


@triton.jit
def _store_gradients(
    place, distribution, policy_gradient, entropy_gradient, exists, CHOICES: tl.constexpr, LANES: tl.constexpr
):
    """Those of a component's logits, from the loss's by its log-probability and, negated, by its entropy."""
    _, entropy, log_sum, sum_of_exponentials, taken, shifted, exponentials, possible = distribution
    parts: tl.constexpr = (CHOICES + LANES - 1) // LANES
    choice = tl.arange(0, LANES)[None, :]
    # p (c (log p + H) - g), and g besides for the choice that was taken
    scale = 1.0 / sum_of_exponentials
    offset = entropy_gradient * (entropy - log_sum) - policy_gradient
    for part in tl.static_range(parts):
        probability = exponentials[part] * scale[:, None]
        gradient = probability * (entropy_gradient[:, None] * shifted[part] + offset[:, None])
        gradient += tl.where(choice + part * LANES == taken[:, None], policy_gradient[:, None], 0.0)
        tl.store(
            place[:, None] + part * LANES + choice,
            tl.where(possible[part], gradient, 0.0),
            mask=exists[:, None] & (choice + part * LANES < CHOICES),
        )


# ---- memory ----


@triton.jit
def _sum(numbers, size, TILE: tl.constexpr):
    total = tl.zeros((TILE,), tl.float32)
    for first in range(0, size, TILE):
        index = first + tl.arange(0, TILE)
        total += tl.load(numbers + index, mask=index < size, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def _scale(numbers, size, factor, TILE: tl.constexpr):
    for first in range(tl.program_id(0).to(tl.int64) * TILE, size, tl.num_programs(0) * TILE):
        index = first + tl.arange(0, TILE)
        number = tl.load(numbers + index, mask=index < size)
        tl.store(numbers + index, number * factor, mask=index < size)
