"""MP4 files of episodes. They need ffmpeg, which the extra ``gpu-marl-envs[video]`` brings."""

from __future__ import annotations

import importlib
import math
import os
import uuid
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gpu_marl_envs.errors import BackendUnavailableError, ParameterError


def record_mp4(frames: Iterable[np.ndarray], path: str | os.PathLike[str], fps: float = 12.0) -> Path:
    """Writes a film (H.264); a file of that name is replaced only once the new one is complete.

    Args:
        frames: pictures, uint8 ``[height, width, 3]``, all of one size; an odd last row or column is left out.
        path: the file to write; its folder must exist.
        fps: pictures per second.

    Returns:
        The path.

    Raises:
        ParameterError: there are no frames, they differ in size, or ``fps`` is not positive.
        BackendUnavailableError: imageio-ffmpeg is not installed.
    """
    try:
        ffmpeg = importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise BackendUnavailableError(
            f"Writing MP4 needs imageio-ffmpeg, which cannot be imported ({error}); "
            "install it with: pip install 'gpu-marl-envs[video]'"
        ) from None
    # The codec stores colour for two by two pixels.
    pictures = [np.asarray(frame) for frame in frames]
    if not pictures or len({picture.shape for picture in pictures}) > 1 or not 0 < fps < math.inf:
        raise ParameterError("record_mp4 needs frames, all of one size, and a positive number of frames per second.")
    height, width = (length // 2 * 2 for length in pictures[0].shape[:2])
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.mp4")
    try:
        writer = ffmpeg.write_frames(str(temporary), (width, height), fps=fps, codec="libx264", macro_block_size=2)
        writer.send(None)
        for picture in pictures:
            writer.send(np.ascontiguousarray(picture[:height, :width]))
        writer.close()
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
