"""Workers on this machine: so many processes, with the cores or the GPUs shared out among them.

A process of its own holds them and dask's scheduler, because starting workers changes the environment of who starts
them. It ends when its standard input does, and they end with it, however it ends.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lib.errors import InputError
from lib.layout import ROOT

TLS = {"ca-file": "ca.pem", "client.cert": "ca.pem", "client.key": "key.pem"}  # of dask's configuration
END_WITHIN = 10.0  # seconds
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them; told without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


def environments(n: int, device: str, here: list[str], n_threads: int) -> list[dict[str, str]]:
    """What each of `n` processes finds in its environment before anything is imported: its GPU, its threads.

    Raises `InputError` where there are more processes than GPUs `here` to compute on.
    """
    on_gpu = bool(here) and device in ("auto", "cuda")
    if on_gpu and n > len(here):
        raise InputError(f"workers: given {n}, allowed: at most {len(here)}, one for each GPU here")
    threads = dict.fromkeys(THREADS, str(n_threads))
    return [threads | {"CUDA_VISIBLE_DEVICES": here[i] if on_gpu else ""} for i in range(n)]


@contextlib.contextmanager
def started(n: int, device: str = "cpu", n_threads: int | None = None) -> Iterator[str]:
    """The address of a scheduler with `n` workers on this machine, for the length of the block.

    Each has `n_threads` threads of its own, by default its share of the cores.

    They take orders over TLS only, by a key made for them, so that nobody else on the machine can give any. dask's own
    variables in the environment say where it lies: this process and its children need nothing but the address.
    Raises `InputError` where they do not start.
    """
    n_threads = n_threads or max(1, cores() // n)
    environments(n, device, gpus(), n_threads)
    import dask
    import distributed  # noqa: F401  (sets dask's defaults, beside which the certificates are put)

    folder = tempfile.mkdtemp(prefix=f"experiment10-workers-{os.getpid()}-")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "lib.cluster.local", str(n), device, str(n_threads), folder]
    before = {name: os.environ.get(name) for name in tls_variables(Path())}
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": path, "DASK_LOGGING__DISTRIBUTED": "error"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        address = (process.stdout.readline() if process.stdout else "").strip()
        if not address:
            raise InputError(f"workers: {n} could not be started here (exit status {process.wait()}), see above")
        os.environ.update(tls_variables(Path(folder)))
        with dask.config.set({f"distributed.comm.tls.{name}": str(Path(folder, file)) for name, file in TLS.items()}):
            yield address
    finally:
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tls_variables(folder: Path) -> dict[str, str]:
    """What tells dask in this process' children which certificates to show and to trust."""
    names = {name: name.upper().replace("-", "_").replace(".", "__") for name in TLS}
    return {f"DASK_DISTRIBUTED__COMM__TLS__{names[name]}": str(folder / file) for name, file in TLS.items()}


def main(words: list[str]) -> None:
    import dask
    from distributed import Nanny, Scheduler, Security
    from distributed.deploy.spec import SpecCluster

    n, device, n_threads, folder = int(words[0]), words[1], int(words[2]), Path(words[3])
    security = Security.temporary()
    for name, text in (("ca.pem", security.tls_ca_file), ("key.pem", security.tls_client_key)):
        with open(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    common = {"security": security, "protocol": "tls", "host": "127.0.0.1"}
    own = {"nthreads": 1, "memory_limit": 0, "dashboard": False, "local_directory": str(folder)}
    found = environments(n, device, gpus(), n_threads)
    workers = {i: {"cls": Nanny, "options": common | own | {"env": env}} for i, env in enumerate(found)}
    served = {"port": 0, "dashboard": True, "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": Scheduler, "options": common | served}
    threads = {name: found[0][name] for name in THREADS}
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": threads}),
        SpecCluster(workers=workers, scheduler=scheduler, security=security, silence_logs=50) as cluster,
    ):
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
