"""How the tests are shared out. What they share is in support/shared.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
FOLDERS = sorted(each for each in HERE.iterdir() if each.is_dir() and each.name[0] not in "._")
# Files that go to one worker: they read a real model's GGUF, which takes seconds, prepare every kind of model, or ask
# one of two servers.
TOGETHER = {
    "real": ("test_alone.py", "test_prompt.py", "test_real_model.py", "test_repeat.py", "test_sources.py"),
    "zoo": ("test_heads.py", "test_hidden.py", "test_merge.py", "test_proof.py", "test_zoo.py"),
    "sites": ("test_abuse.py", "test_api.py", "test_hosted.py", "test_limits.py", "test_load.py", "test_visitors.py"),
    "slow": ("test_slow_and_long.py",),
}
sys.path[:0] = [str(HERE), *map(str, FOLDERS)]  # tests import their helpers by name


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """`pytest` alone, which runs everything, takes four workers, as those with a browser wait for it now and then; a
    file, `-n 0` or `--pdb` stays in one process."""
    option = config.option
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not option.usepdb
    if hasattr(config, "workerinput") or not config.pluginmanager.hasplugin("xdist"):
        return
    if everything and option.numprocesses is None:
        option.numprocesses, option.dist, option.loadscopereorder = 4, "loadfile", False


def pytest_configure(config: pytest.Config) -> None:
    """The process that shares the tests out runs none: what they need would take it as long as each of its workers."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("shared")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests share what is made for them and stay on one worker. Those with a browser share a server: they are
    two parts, each of which starts one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            alone = "looking" if "/browser/" in file else file
            return next((name for name, files in TOGETHER.items() if file.endswith(files)), alone)

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a browser take longest and begin at once."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is None)
