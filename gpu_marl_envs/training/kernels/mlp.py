"""Fully connected layers, forward and backward, with all activations on chip.

A program takes tile after tile of rows. The weights stay in its shared memory, a tile's activations in registers and
shared memory, and the gradients of all weights in the accumulators of its matrix products until the last tile, so that
global memory sees each input, output and gradient of an output once. What backward needs of the hidden layers it
computes again, which costs less than to store and load it.

Tiles are padded with zeros to powers of two, which add nothing to outputs and gradients that are stored.
"""

import triton
import triton.language as tl

# Where products have single precision, each operand is the sum of two that tensor cores multiply exactly.
ROUND = tl.constexpr(1 << 12)  # half of what the lowest bit counts that tensor cores see
HIGH = tl.constexpr(-(1 << 13))  # the bits that they see
COLUMNS = tl.constexpr(8)  # of ones; with 16, ptxas lets Hopper's asynchronous matrix products wait for each other


@triton.jit(do_not_specialize=["rows"])
def forward(
    inputs,  # [rows, INPUTS]
    weights,  # of each layer [outputs, inputs], the head's last
    biases,  # of each layer [outputs]
    outputs,  # [rows, OUTPUTS]
    rows,
    row_stride,  # of inputs
    column_stride,
    INPUTS: tl.constexpr,
    HIDDEN: tl.constexpr,
    OUTPUTS: tl.constexpr,
    LAYERS: tl.constexpr,  # that are hidden
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):
    """The outputs of all rows."""
    output_tile: tl.constexpr = padded(OUTPUTS)
    matrices = _hidden_matrices(weights, INPUTS, HIDDEN, LAYERS, PRECISION)
    head = _matrix(weights[LAYERS], OUTPUTS, HIDDEN, PRECISION)
    for tile in range(tl.program_id(0), tl.cdiv(rows, TILE), tl.num_programs(0)):
        row = (tile * TILE + tl.arange(0, TILE)).to(tl.int64)
        hidden = _inputs(inputs, row, rows, row_stride, column_stride, INPUTS, PRECISION)
        for layer in tl.static_range(LAYERS):
            hidden = _layer(hidden, matrices[layer], biases[layer], HIDDEN, ACTIVATION, PRECISION)
        output = _affine(hidden, head, biases[LAYERS], OUTPUTS)
        column = tl.arange(0, output_tile)
        tl.store(
            outputs + row[:, None] * OUTPUTS + column[None, :],
            output,
            mask=(row[:, None] < rows) & (column[None, :] < OUTPUTS),
        )


@triton.jit(do_not_specialize=["rows"])
def backward(
    inputs,
    weights,
    biases,
    output_gradients,  # [rows, OUTPUTS]
    gradients,  # [programs, parameters]: what each program adds to those of all weights and then of all biases
    rows,
    row_stride,
    column_stride,
    INPUTS: tl.constexpr,
    HIDDEN: tl.constexpr,
    OUTPUTS: tl.constexpr,
    LAYERS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
):
    """The gradients of weights and biases, in one part for each program."""
    input_tile: tl.constexpr = padded(INPUTS)
    hidden_tile: tl.constexpr = padded(HIDDEN)
    output_tile: tl.constexpr = padded(OUTPUTS)
    matrices = _hidden_matrices(weights, INPUTS, HIDDEN, LAYERS, PRECISION)
    head = _matrix(weights[LAYERS], OUTPUTS, HIDDEN, PRECISION)
    weight_sums = (tl.zeros((hidden_tile, input_tile), tl.float32),)
    # A sum over rows is a product with ones: cheaper here than one that crosses the threads, and less to keep.
    ones = _operand(tl.full((TILE, COLUMNS), 1.0, tl.float32), PRECISION)
    bias_sums = (tl.zeros((hidden_tile, COLUMNS), tl.float32),)
    for _ in tl.static_range(1, LAYERS):
        weight_sums = weight_sums + (tl.zeros((hidden_tile, hidden_tile), tl.float32),)
        bias_sums = bias_sums + (tl.zeros((hidden_tile, COLUMNS), tl.float32),)
    head_sum = tl.zeros((hidden_tile, output_tile), tl.float32)
    head_bias_sum = tl.zeros((TILE, output_tile), tl.float32)
    column = tl.arange(0, output_tile)

    for tile in range(tl.program_id(0), tl.cdiv(rows, TILE), tl.num_programs(0)):
        row = (tile * TILE + tl.arange(0, TILE)).to(tl.int64)
        hidden = (_inputs(inputs, row, rows, row_stride, column_stride, INPUTS, PRECISION),)
        for layer in tl.static_range(LAYERS):
            hidden = hidden + (_layer(hidden[layer], matrices[layer], biases[layer], HIDDEN, ACTIVATION, PRECISION),)
        output_gradient = tl.load(
            output_gradients + row[:, None] * OUTPUTS + column[None, :],
            mask=(row[:, None] < rows) & (column[None, :] < OUTPUTS),
            other=0.0,
        )
        gradient = _operand(output_gradient, PRECISION)
        head_sum = _add_product(head_sum, _transposed(hidden[LAYERS]), gradient)
        head_bias_sum += output_gradient
        gradient = _behind(gradient, head, hidden[LAYERS], ACTIVATION, PRECISION)
        old_weight_sums, old_bias_sums = weight_sums, bias_sums
        weight_sums, bias_sums = (), ()
        for layer in tl.static_range(LAYERS - 1, -1, -1):
            across = _transposed(gradient)
            weight_sums = (_add_product(old_weight_sums[layer], across, hidden[layer]),) + weight_sums
            bias_sums = (_add_product(old_bias_sums[layer], across, ones),) + bias_sums
            if layer > 0:
                gradient = _behind(gradient, matrices[layer], hidden[layer], ACTIVATION, PRECISION)

    parameters: tl.constexpr = HIDDEN * (INPUTS + (LAYERS - 1) * HIDDEN + OUTPUTS + LAYERS) + OUTPUTS
    place = gradients + tl.program_id(0).to(tl.int64) * parameters
    place = _store_matrix(place, weight_sums[0], HIDDEN, INPUTS)
    for layer in tl.static_range(1, LAYERS):
        place = _store_matrix(place, weight_sums[layer], HIDDEN, HIDDEN)
    place = _store_matrix(place, head_sum.T, OUTPUTS, HIDDEN)
    for layer in tl.static_range(LAYERS):
        place = _store_vector(place, tl.max(bias_sums[layer], 1), HIDDEN)  # all columns are equal
    _store_vector(place, tl.sum(head_bias_sum, 0), OUTPUTS)


@triton.jit(do_not_specialize=["programs", "parameters"])
def sum_parts(parts, sums, programs, parameters, TILE: tl.constexpr, COLUMNS: tl.constexpr):
    """Adds ``parts`` ``[programs, parameters]`` up, always in the same order."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((TILE, COLUMNS), tl.float32)
    for first in range(0, programs, TILE):
        row = first + tl.arange(0, TILE)
        total += tl.load(
            parts + row[:, None] * parameters + column[None, :],
            mask=(row[:, None] < programs) & (column[None, :] < parameters),
            other=0.0,
        )
    tl.store(sums + column, tl.sum(total, 0), mask=column < parameters)


# ---- layers ----


@triton.jit
def _layer(hidden, matrix, bias, HIDDEN: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr):
    """One hidden layer."""
    return _activated(_affine(hidden, matrix, bias, HIDDEN), ACTIVATION, PRECISION)


@triton.jit
def _affine(hidden, matrix, bias, SIZE: tl.constexpr):
    # Loaded anew for every tile, from the cache: registers are scarcer.
    index = tl.arange(0, padded(SIZE))
    start = tl.load(bias + index, mask=index < SIZE, other=0.0)
    zeros = tl.zeros((hidden[0].shape[0], padded(SIZE)), tl.float32)
    return _add_product(zeros, hidden, _transposed(matrix)) + start[None, :]


@triton.jit
def _behind(gradient, matrix, hidden, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr):
    """The gradient of what a layer's activation took, from that of what the next matrix gave."""
    zeros = tl.zeros((gradient[0].shape[0], matrix[0].shape[1]), tl.float32)
    return _operand(_add_product(zeros, gradient, matrix) * _slope(hidden, ACTIVATION), PRECISION)


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr):
    if ACTIVATION == "relu":
        return _operand(tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL), PRECISION)
    elif PRECISION == "float32":
        return _operand(1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0), PRECISION)
    elif PRECISION == "tf32":
        # The hardware's own, whose relative error of 2^-11 is that of rounding to the precision of the products.
        return (tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1),)
    else:
        return (
            tl.inline_asm_elementwise(
                """
                {
                    .reg .f32 first, second;
                    tanh.approx.f32 first, $1;
                    tanh.approx.f32 second, $2;
                    cvt.rn.bf16x2.f32 $0, second, first;
                }
                """,
                "=r,f,f",
                [x],
                tl.bfloat16,
                is_pure=True,
                pack=2,
            ),
        )


@triton.jit
def _slope(hidden, ACTIVATION: tl.constexpr):
    """The derivative of the activation, from what it gave."""
    y = hidden[0].to(tl.float32)
    if len(hidden) == 2:
        y += hidden[1]
    if ACTIVATION == "relu":
        return tl.where(y > 0.0, 1.0, 0.0)
    else:
        return 1.0 - y * y


# ---- operands of matrix products ----


@triton.jit
def _operand(x, PRECISION: tl.constexpr):
    """What tensor cores multiply in place of ``x``: a tuple of tensors, which add up to it."""
    if PRECISION == "bfloat16":
        return (x.to(tl.bfloat16),)
    elif PRECISION == "tf32":
        return (x.to(tl.float32),)
    else:
        x = x.to(tl.float32)
        high = ((x.to(tl.int32, bitcast=True) + ROUND) & HIGH).to(tl.float32, bitcast=True)
        return (high, x - high)


@triton.jit
def _transposed(x):
    if len(x) == 2:
        return (x[0].T, x[1].T)
    else:
        return (x[0].T,)


@triton.jit
def _add_product(total, a, b):
    """``total`` and the matrix product of two operands; the product of their low parts is below single precision."""
    if len(a) == 2:
        total = tl.dot(a[1], b[0], total, input_precision="tf32")
        total = tl.dot(a[0], b[1], total, input_precision="tf32")
    return tl.dot(a[0], b[0], total, input_precision="tf32")


# ---- memory ----


@triton.constexpr_function
def padded(size):
    """The power of two that holds ``size``, at least the smallest side that a matrix product may have."""
    return max(16, triton.next_power_of_2(size))


@triton.jit
def _inputs(inputs, row, rows, row_stride, column_stride, INPUTS: tl.constexpr, PRECISION: tl.constexpr):
    column = tl.arange(0, padded(INPUTS))
    x = tl.load(
        inputs + row[:, None] * row_stride + column[None, :] * column_stride,
        mask=(row[:, None] < rows) & (column[None, :] < INPUTS),
        other=0.0,
    )
    return _operand(x, PRECISION)


@triton.jit
def _hidden_matrices(
    weights, INPUTS: tl.constexpr, HIDDEN: tl.constexpr, LAYERS: tl.constexpr, PRECISION: tl.constexpr
):
    matrices = (_matrix(weights[0], HIDDEN, INPUTS, PRECISION),)
    for layer in tl.static_range(1, LAYERS):
        matrices = matrices + (_matrix(weights[layer], HIDDEN, HIDDEN, PRECISION),)
    return matrices


@triton.jit
def _matrix(weight, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr):
    row = tl.arange(0, padded(ROWS))[:, None]
    column = tl.arange(0, padded(COLUMNS))[None, :]
    x = tl.load(weight + row * COLUMNS + column, mask=(row < ROWS) & (column < COLUMNS), other=0.0)
    return _operand(x, PRECISION)


@triton.jit
def _store_matrix(place, x, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Stores ``x`` and returns the place behind it."""
    row = tl.arange(0, padded(ROWS))[:, None]
    column = tl.arange(0, padded(COLUMNS))[None, :]
    tl.store(place + row * COLUMNS + column, x, mask=(row < ROWS) & (column < COLUMNS))
    return place + ROWS * COLUMNS


@triton.jit
def _store_vector(place, x, SIZE: tl.constexpr):
    index = tl.arange(0, padded(SIZE))
    tl.store(place + index, x, mask=index < SIZE)
    return place + SIZE
