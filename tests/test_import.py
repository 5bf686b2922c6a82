"""What `import ralx` does to the program that imports it."""

import json
import os
import subprocess
import sys
import textwrap

PUBLIC = (
    "region_features RegionFeatures kl_histogram bald BaldAccumulator BaldScores confusion_matrix Featurizer "
    "build_info"
).split()


def fresh(code, *options, **environment):
    """Runs `code` in a new interpreter and returns what it printed, as JSON."""
    result = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_public_names():
    missing = fresh(f"import json, ralx; print(json.dumps([n for n in {PUBLIC} if not hasattr(ralx, n)]))")
    assert missing == []


def test_import_loads_nothing_optional():
    loaded = fresh("import sys, json, ralx; print(json.dumps(sorted(sys.modules)))")
    # numpy comes with torch.
    unwanted = "torchvision timm matplotlib tensorboard scipy torchmetrics rich tyro pandas".split()
    unwanted += ["segmentation_models_pytorch", "transformers"]
    assert not set(unwanted) & set(loaded)


def test_import_opens_no_socket_and_starts_no_process():
    events = fresh(
        """
        import json, sys
        import torch
        seen = []
        watched = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "urllib.")
        sys.addaudithook(lambda event, args: seen.append(event) if event.startswith(watched) else None)
        import ralx
        print(json.dumps(seen))
        """
    )
    assert events == []


def test_import_writes_nothing(tmp_path):
    opened = fresh(
        f"""
        import json, os, sys
        import torch
        os.chdir({str(tmp_path)!r})
        written, writing = [], os.O_WRONLY | os.O_RDWR | os.O_CREAT
        def watch(event, args):
            if event == "open" and isinstance(args[2], int) and args[2] & writing:
                written.append(str(args[0]))
            elif event in ("os.mkdir", "os.rename", "os.remove"):
                written.append(event)
        sys.addaudithook(watch)
        import ralx
        print(json.dumps(written))
        """,
        "-B",  # Python's own bytecode cache
    )
    assert opened == [] and not list(tmp_path.iterdir())


def test_import_leaves_torch_and_the_process_as_they_were():
    before, after = fresh(
        """
        import json, os, random, signal, sys, warnings
        import numpy, torch

        def settings():
            return [
                torch.get_num_threads(), torch.get_num_interop_threads(), str(torch.get_default_dtype()),
                torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
                torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision(), torch.initial_seed(),
                torch.get_rng_state().tolist()[:64], random.random.__self__.getstate()[1][:8],
                numpy.random.get_state()[1][:8].tolist(), numpy.geterr(), len(warnings.filters),
                sorted(os.environ.items()), os.getcwd(), str(signal.getsignal(signal.SIGINT)), sys.path,
                bool(torch.tensor([1e-310], dtype=torch.float64).mul(1) != 0),  # no flush to zero
            ]

        before = settings()
        import ralx
        print(json.dumps([before, settings()]))
        """
    )
    assert before == after


def test_import_adds_little_to_torch():
    seconds = fresh(
        """
        import json, time
        import torch
        start = time.process_time()  # of this process: other work on the machine doesn't count
        import ralx
        print(json.dumps(time.process_time() - start))
        """
    )
    assert seconds < 2, f"import ralx took {seconds:.1f} s beyond torch"


def test_ops_load_without_torch_imported_first():
    # The extension shares torch's OpenMP runtime, which must be in the process before it.
    shape = fresh(
        """
        import json
        import ralx
        import torch
        print(json.dumps(list(ralx.region_features(torch.zeros(1, 2, 16, 16), (8, 8)).class_hist.shape)))
        """
    )
    assert shape == [1, 4, 2]
