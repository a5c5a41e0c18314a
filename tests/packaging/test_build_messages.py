"""What a build says when something is missing, and what a message says to install."""

import re
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
from child_processes import ROOT, python, run, script

pytestmark = pytest.mark.source


@pytest.mark.parametrize("version, needed", [("2.13.0+cpu", []), ("2.10.1", ["torch>=2.11", "numpy"]), (None, None)])
def test_backend_builds_against_the_installed_torch(backend, monkeypatch, tmp_path, version, needed):
    if version is not None:
        (tmp_path / f"torch-{version}.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        (tmp_path / f"torch-{version}.dist-info" / "METADATA").write_text(metadata)
    path = [str(tmp_path / "isolated")]
    monkeypatch.setattr(sys, "path", path)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"platlib": str(tmp_path)})
    requirements = backend.get_requires_for_build_wheel()
    assert requirements == backend.get_requires_for_build_editable()
    if needed == []:
        assert requirements == [] and path == [str(tmp_path / "isolated"), str(tmp_path)]
    else:
        assert requirements == ["torch>=2.11", "numpy"] and len(path) == 1


@pytest.mark.parametrize("environment", [{"CXX": "/nonexistent/g++"}, {"CXX": "", "PATH": ""}])
def test_build_without_compiler_is_one_sentence(environment):
    code = "import sys; sys.path.insert(0, '.'); import _build.backend as b; b.get_requires_for_build_wheel()"
    result = python(code, check=False, **environment)
    assert result.returncode == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert re.match(r"mmssl_fast: there is no C\+\+ compiler: `\S+` was not found; install g\+\+", line)
    build = run(sys.executable, "setup.py", "-q", "build_ext", check=False, **environment)
    assert build.returncode == 1 and build.stderr.splitlines()[-1] == line


def test_failed_compiler_is_one_sentence(tmp_path):
    """Not a traceback of setuptools or torch, whose ninja runs this compiler."""
    for name in ("_build", "csrc", "mmssl_fast"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "kernels", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    script(
        tmp_path / "c++",
        'for flag; do case $flag in */bindings_0.cpp) echo "bindings_0.cpp:1:1: error: no" >&2; exit 1;; esac; done',
        'for flag; do [ "$last" = -o ] && : > "$flag"; last=$flag; done',
    )
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    build = run(*command, check=False, cwd=tmp_path, CXX=str(tmp_path / "c++"), MMSSL_FAST_CUDA="0")
    assert build.returncode == 1 and "Traceback" not in build.stderr
    assert "bindings_0.cpp:1:1: error: no" in build.stdout + build.stderr
    assert build.stderr.splitlines()[-1].startswith("mmssl_fast: the C++ library was not built (")


@pytest.mark.parametrize("value, sentence", [("2", "must be 0"), ("1", "but CUDA cannot be built: ")])
def test_cuda_that_cannot_be_built_is_one_sentence(value, sentence):
    environment = {"MMSSL_FAST_CUDA": value, "TORCH_CUDA_ARCH_LIST": "0.1"}  # with a torch for CUDA: no such GPU
    result = run(sys.executable, "setup.py", "-q", "build_ext", check=False, **environment)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"mmssl_fast: MMSSL_FAST_CUDA={value}")
    assert sentence in result.stderr.splitlines()[-1]


def test_build_modules_cannot_be_hidden():
    """torch's CUDA wheels bring a namespace package `cuda`, which `import torch` loads: the build has no such names."""
    names = [path.stem for path in (ROOT / "_build").glob("*.py") if path.stem != "__init__"]
    code = f"""
import sys, types
sys.modules |= {{name: types.ModuleType(name) for name in {[*names, "cuda"]}}}
sys.path.insert(0, "")
import torch, _build.backend, _build.extension
print(_build.extension.toolkit.__file__)
"""
    assert Path(python(code).stdout.strip()) == ROOT / "_build" / "toolkit.py"


@pytest.mark.parametrize(
    "url, said",
    [
        (None, 'in the folder of the mmssl_fast checkout: pip install ".[train]"'),
        ("file://{}/check%20out", 'pip install "{}/check out[train]"'),
        ("file://{}/gone", 'in the folder of the mmssl_fast checkout: pip install ".[train]"'),
        ("https://example.org/mmssl_fast.whl", 'in the folder of the mmssl_fast checkout: pip install ".[train]"'),
    ],
)
def test_advice_never_names_the_project_on_an_index(tmp_path, monkeypatch, url, said):
    """No project of that name is on the index; whoever registers it would be installed."""
    import json
    from importlib import metadata

    from mmssl_trainer.errors import install_command

    class Found:
        def read_text(self, name):
            assert name == "direct_url.json"
            return url and json.dumps({"url": url.format(tmp_path)})

    (tmp_path / "check out").mkdir()
    monkeypatch.setattr(metadata, "distribution", lambda name: Found())
    assert install_command("train") == said.format(tmp_path)


def test_no_message_or_page_says_to_install_the_bare_name():
    paths = [*(ROOT / "python").rglob("*.py"), *(ROOT / "mmssl_fast").rglob("*.py"), *ROOT.glob("*.md")]
    paths += [*(ROOT / "docs").glob("*.md"), *(ROOT / "kernels").glob("*.py")]
    for path in paths:
        assert not re.search(r"pip install\s+[\"']?mmssl", path.read_text(encoding="utf-8")), path
