"""Plugins with extension modules in C that are loaded again: a process loads these once."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from gofer.errors import PluginError
from support.containers import Kennel
from support.plugins import describe, install

pytestmark = pytest.mark.slow  # it compiles

EXTENSION = """
#include <Python.h>
static PyObject *number(PyObject *self, PyObject *none) { return PyLong_FromLong(1); }
static PyMethodDef methods[] = {{"number", number, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
#if MULTI
static PyModuleDef_Slot slots[] = {{0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "fast", "", 0, methods, slots, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit_fast(void) { return PyModuleDef_Init(&definition); }
#else
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "fast", "", -1, methods, NULL, NULL, NULL, NULL};
static int times = 0;
PyMODINIT_FUNC PyInit_fast(void) {
    if (ONCE && times++) { PyErr_SetString(PyExc_ImportError, "only once in a process"); return NULL; }
    return PyModule_Create(&definition);
}
#endif
"""


class TestExtensionModules:
    @pytest.fixture
    def build(self, kennel: Kennel) -> Callable[..., Path]:
        """Return what makes the plugin ``quick`` with the extension module ``swift.fast``."""

        def build(*flags: str) -> Path:
            package = kennel.site / "swift"
            package.mkdir()
            source = kennel.site / "fast.c"
            source.write_text(EXTENSION)
            target = package / f"fast{sysconfig.get_config_var('EXT_SUFFIX')}"
            include = sysconfig.get_path("include")
            command = ["cc", "-shared", "-fPIC", f"-I{include}", *flags, "-o", str(target), str(source)]
            subprocess.run(command, check=True, timeout=60)
            (package / "__init__.py").write_text(
                "from swift import fast\nfrom gofer.decorators import remote\n"
                "@remote\ndef number():\n    return fast.number()\n"
            )
            install(kennel.site, "quick", None, module="swift")
            describe(kennel.root, "quick", "[main]\nenabled=1\n")
            kennel.start()
            assert kennel["quick"]["number"]() == 1
            return target

        return build

    @pytest.mark.parametrize("flags", [("-DMULTI=0", "-DONCE=0"), ("-DMULTI=0", "-DONCE=1"), ("-DMULTI=1",)])
    def test_it_is_the_same_for_the_new_code(
        self, kennel: Kennel, build: Callable[..., Path], flags: tuple[str, ...]
    ) -> None:
        target = build(*flags)
        before, package, fast = kennel["quick"], sys.modules["swift"], sys.modules["swift.fast"]
        (target.parent / "__init__.py").write_text(
            "import swift.fast\nfrom gofer.decorators import remote\n"
            "@remote\ndef number():\n    return swift.fast.number() + 1\n"
        )

        for _ in range(2):
            kennel.container.reload("quick")

            assert kennel["quick"] is not before
            assert sys.modules["swift"] is not package
            assert sys.modules["swift.fast"] is sys.modules["swift"].fast is fast
            assert kennel["quick"]["number"]() == 2

    def test_one_that_has_changed_is_named(self, kennel: Kennel, build: Callable[..., Path]) -> None:
        target = build("-DMULTI=1")
        shutil.copy(target, target.with_suffix(".new"))
        target.with_suffix(".new").replace(target)

        before, modules = kennel["quick"], (sys.modules["swift"], sys.modules["swift.fast"])
        with pytest.raises(
            PluginError, match=r"swift\.fast cannot be imported again: its file has changed.*restart goferd"
        ):
            kennel.container.reload("quick")

        assert kennel["quick"] is before
        assert (sys.modules["swift"], sys.modules["swift.fast"]) == modules
        assert sys.modules["swift"].fast is modules[1]
        assert before["number"]() == 1
