"""What a run may leave outside its own folder: compiled kernels, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgbench import native
from cgbench.conformance.side_effects import watch_side_effects


@pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")
def test_kernels_may_be_compiled_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "home" / ".cache" / "cgbench" / "native"
    monkeypatch.setattr(native, "cache_folders", lambda: (cache,))
    source = tmp_path / "kernel.cpp"
    source.write_text('extern "C" int answer() { return 42; }\n')
    (tmp_path / "runs").mkdir()
    with watch_side_effects(tmp_path / "runs", 0, tmp_path / "runs" / "own") as found:
        assert native.library(source).answer() == 42
    assert list(cache.glob("*.so")) and not found.files and not found.state
    with watch_side_effects(tmp_path / "runs", 1, tmp_path / "runs" / "own") as found:
        (cache.parent / "notes").write_text("beside the kernels")
    assert found.files == [str(cache.parent / "notes")]
