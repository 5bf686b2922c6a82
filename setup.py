"""Builds ralx._C with CMake. CMakeLists.txt owns sources and compiler flags, pyproject.toml all the rest."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()

# Without build isolation nobody checks this, and an older one, as Python 3.11 puts into a new environment,
# only complains of pyproject.toml.
[OLDEST] = re.findall(r'requires = \["setuptools>=(\d+)"', (ROOT / "pyproject.toml").read_text())
if int(setuptools.__version__.split(".")[0]) < int(OLDEST):
    sys.exit(f"ralx builds with setuptools {OLDEST} or newer, this is {setuptools.__version__}")


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        destination = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        # pip builds in throw-away environments, whose paths a cache from an earlier build would still name.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        # cmake and ninja may be installed for this Python only, in an environment that nobody activated.
        # CUDA_HOME chooses an nvcc, which else often lies where no PATH leads.
        chosen = os.environ.get("CUDA_HOME", "")
        folders = [sysconfig.get_path("scripts"), chosen and os.path.join(chosen, "bin")]
        folders += [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
        environment = os.environ | {"PATH": os.pathsep.join(filter(None, folders))}
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={destination}",
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DRALX_PYTHON=ON",
            "-DRALX_TESTS=OFF",
        ]
        subprocess.run(configure, check=True, env=environment)
        subprocess.run(["cmake", "--build", str(build)], check=True, env=environment)


setup(ext_modules=[Extension("ralx._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
