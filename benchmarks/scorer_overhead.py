"""Round trip through the scorer process with a model that does nothing: `python benchmarks/scorer_overhead.py`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from parfocal.models import ModelSpec
from parfocal.models.scoring import InlineScorer, ProcessScorer, Scorer

PLUGIN = """
from parfocal.models.base import Assessment, ModelCard
class Idle:
    card = ModelCard("idle", "1", "none", "none", "0" * 64)
    answer = Assessment("idle", 0.0, 1.0)
    def assess(self, images, pixel_um):
        return [self.answer] * len(images)
def make(options):
    return Idle()
"""


def install(folder: Path) -> None:
    """Offer the idle model as a plugin, here and in spawned processes."""
    (folder / "parfocal_idle_model.py").write_text(PLUGIN)
    info = folder / "parfocal_idle_model-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parfocal-idle-model\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[parfocal.models]\nidle = parfocal_idle_model:make\n")
    sys.path.insert(0, str(folder))


def measure(scorer: Scorer, side: int, repeats: int) -> str:
    """Percentiles of the milliseconds of one `score`."""
    frame = np.random.default_rng(0).integers(0, 65536, (side, side)).astype(np.uint16)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        scorer.score(frame, 0.325)
        times.append(1e3 * (time.perf_counter() - begin))
    p50, p99 = np.percentile(times[repeats // 10 :], [50, 99])
    return f"p50 {p50:6.3f} ms  p99 {p99:6.3f} ms  least {min(times):6.3f} ms"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder))
        for scorer in (InlineScorer([ModelSpec("idle")]), ProcessScorer([ModelSpec("idle")])):
            scorer.start()
            for side in (512, 1024, 2048):
                print(f"{type(scorer).__name__:14s} {side:5d}x{side:<5d} {measure(scorer, side, options.repeats)}")
            scorer.close()


if __name__ == "__main__":
    main()
