"""A fault of ours costs the tab, never TensorBoard."""

import logging
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from tensorboard.plugins.base_plugin import TBContext

from gradwatch.tab.entry import GradWatchLoader


def test_tensorboard_finds_the_tab():
    (found,) = entry_points(group="tensorboard_plugins", name="gradwatch")
    assert found.load() is GradWatchLoader


def test_the_tab_is_loaded():
    assert GradWatchLoader().load(TBContext(data_provider=object())).plugin_name == "gradwatch"


@pytest.mark.parametrize("error", [ImportError("no werkzeug"), SyntaxError("bad"), KeyError("x")])
def test_a_fault_on_loading_is_one_warning(monkeypatch, caplog, error):
    class Broken:
        def find_spec(self, name, *_):
            if name == "gradwatch.tab.plugin":
                raise error

    monkeypatch.delitem(sys.modules, "gradwatch.tab.plugin", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with caplog.at_level(logging.WARNING, logger="gradwatch"):
        assert GradWatchLoader().load(TBContext(data_provider=object())) is None
    (record,) = caplog.records
    assert "shows no GradWatch tab" in record.getMessage()
    assert "pip install" in record.getMessage()
    assert record.exc_info is None


def test_without_a_data_provider_there_is_no_tab(caplog):
    with caplog.at_level(logging.WARNING, logger="gradwatch"):
        assert GradWatchLoader().load(TBContext()) is None
    assert "no data provider" in caplog.text


LOADED = "sorted({name.partition('.')[0] for name in sys.modules})"


@pytest.mark.parametrize(
    ("module", "left_out"),
    [
        ("gradwatch.tab.entry", {"torch", "keras", "tensorflow", "jax", "rich", "sklearn"}),
        ("gradwatch.tab.plugin", {"torch", "keras", "jax", "sklearn"}),
    ],
)
def test_tensorboard_loads_no_framework_for_it(module, left_out):
    code = f"import sys, {module}; print(*{LOADED})"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.split())
    assert "gradwatch" in loaded
    assert not loaded & left_out
