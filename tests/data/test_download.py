"""Downloads from servers on this machine: mirrors, damage, refusal, unsafe archives; nothing half-written."""

import contextlib
import errno
import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath

import pytest

from gmbook.data import download
from gmbook.data.download import DataCorrupt, DataMissing, DownloadFailed, Entry, Source

PLAIN, INNER = b"plain contents " * 999, b"inner contents " * 5000


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def serve(tmp_path):
    """serve(files) -> base address of a fresh server with exactly these files."""
    servers = []

    def start(files):
        folder = tmp_path / f"server{len(servers)}"
        folder.mkdir()
        for name, contents in files.items():
            (folder / name).write_bytes(contents)
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def unreachable():
    """The address of a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


@pytest.fixture
def register(monkeypatch, nowhere):
    """register(bases, contents, …) puts one set named "toy" in the registry and returns its home."""

    def put(bases, contents, name="toy.bin", members=()):
        source = Source(
            name,
            len(contents),
            hashlib.sha256(contents).hexdigest(),
            "toy",
            dict.fromkeys(members, ["sha256:" + hashlib.sha256(INNER).hexdigest()]),
        )
        toy = Entry("toy", "Toy", "", "", "", bases=tuple(bases), sources=(source,))
        monkeypatch.setattr(download, "registry", lambda: {"toy": toy})
        return nowhere

    return put


def fetch():
    return download.fetch("toy", progress=False, timeout=5)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.exists() else set()


def make_tar(*entries):
    """A .tar.gz of (name, contents) pairs or ready TarInfos."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for entry in entries:
            if not isinstance(entry, tarfile.TarInfo):
                name, contents = entry
                entry = tarfile.TarInfo(name)
                entry.size = len(contents)
                archive.addfile(entry, io.BytesIO(contents))
            else:
                archive.addfile(entry)
    return raw.getvalue()


def make_zip(*entries):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in entries:
            archive.writestr(name, contents)
    return raw.getvalue()


def special(name, kind, target="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


# ---------------------------------------------------------------------------------------- what works


def test_a_plain_file_arrives_whole_and_alone(serve, register):
    home = register([serve({"toy.bin": PLAIN})], PLAIN)
    assert not download.available("toy") and fetch() == home
    assert (home / "toy" / "toy.bin").read_bytes() == PLAIN
    assert files_below(home) == {"toy", "toy/toy.bin"}
    assert download.available("toy") and download.locate("toy") == home


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_only_the_members_leave_the_archive(serve, register, kind):
    make = make_tar if kind == "tar.gz" else make_zip
    archive = make(("deep/inner.bin", INNER), ("deep/readme.html", b"not wanted"))
    home = register([serve({f"toy.{kind}": archive})], archive, f"toy.{kind}", ["deep/inner.bin"])
    fetch()
    assert files_below(home) == {"toy", "toy/deep", "toy/deep/inner.bin"}
    assert (home / "toy" / "deep" / "inner.bin").read_bytes() == INNER


def test_mirrors_are_tried_in_order_until_one_delivers(serve, register):
    lacking, wrong, right = serve({}), serve({"toy.bin": PLAIN[:-1]}), serve({"toy.bin": PLAIN})
    home = register([unreachable(), lacking, wrong, right], PLAIN)
    fetch()
    assert (home / "toy" / "toy.bin").read_bytes() == PLAIN
    assert files_below(home) == {"toy", "toy/toy.bin"}


def test_the_first_mirror_that_delivers_ends_the_search(serve, register, monkeypatch):
    import requests

    asked, get = [], requests.get
    monkeypatch.setattr(requests, "get", lambda url, **kw: asked.append(url) or get(url, **kw))
    first, second = serve({"toy.bin": PLAIN}), serve({"toy.bin": PLAIN})
    register([first, second], PLAIN)
    fetch()
    assert asked == [first + "toy.bin"]


def test_what_is_there_is_not_fetched_again(register):
    home = register([unreachable()], PLAIN)
    (home / "toy").mkdir(parents=True)
    (home / "toy" / "toy.bin").write_bytes(PLAIN)
    assert fetch() == home


def test_another_file_of_the_name_is_refused_and_left_alone(register):
    home = register([unreachable()], PLAIN)
    (home / "toy").mkdir(parents=True)
    (home / "toy" / "toy.bin").write_bytes(b"mine")
    with pytest.raises(DataCorrupt, match=r"toy\.bin is damaged or belongs to another set.*delete it"):
        fetch()
    assert (home / "toy" / "toy.bin").read_bytes() == b"mine"


def test_only_what_is_missing_is_fetched(serve, register):
    archive = make_tar(("one.bin", INNER), ("two.bin", INNER))
    home = register([serve({"toy.tar.gz": archive})], archive, "toy.tar.gz", ["one.bin", "two.bin"])
    (home / "toy").mkdir(parents=True)
    (home / "toy" / "one.bin").write_bytes(INNER)
    before = (home / "toy" / "one.bin").stat()
    fetch()
    assert (home / "toy" / "two.bin").read_bytes() == INNER and (home / "toy" / "one.bin").stat() == before


def test_without_a_named_folder_the_cache_is_filled(serve, register, monkeypatch):
    home = register([serve({"toy.bin": PLAIN})], PLAIN)
    monkeypatch.delenv("GMBOOK_DATA")
    assert fetch() == home.with_name("cache") and not home.exists()


# ---------------------------------------------------------------------------------------- what fails


def test_no_mirror_delivers_says_why_for_each(serve, register):
    lacking, wrong = serve({}), serve({"toy.bin": b"<html>404</html>"})
    home = register([unreachable(), lacking, wrong], PLAIN)
    message = r"cannot be reached; .*refuses: 404.*; .*other bytes than the registered SHA-256.*GMBOOK_DATA"
    with pytest.raises(DownloadFailed, match=message) as caught:
        fetch()
    assert "\n" not in str(caught.value)
    assert not home.exists()


def test_no_network_is_one_clear_line(register, monkeypatch):
    def refuse(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    home = register(["https://example.invalid/"], PLAIN)
    with pytest.raises(DownloadFailed, match="cannot be reached.*check the network") as caught:
        fetch()
    assert "\n" not in str(caught.value) and not home.exists()


def test_a_line_that_breaks_half_way_leaves_nothing(register):
    class Breaks(Quiet):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(PLAIN)))
            self.end_headers()
            self.wfile.write(PLAIN[:1000])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Breaks)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    home = register([f"http://127.0.0.1:{server.server_port}/"], PLAIN)
    with pytest.raises(DownloadFailed):
        fetch()
    server.shutdown()
    server.server_close()
    assert not home.exists()


def test_an_interrupt_leaves_nothing(serve, register, monkeypatch):
    archive = make_tar(("inner.bin", INNER))
    home = register([serve({"toy.tar.gz": archive})], archive, "toy.tar.gz", ["inner.bin"])

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile.TarFile, "extractall", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch()
    assert not home.exists()


def test_a_download_stops_at_the_size_that_is_due(register):
    """A server that sends without end fills no disk."""
    sent = []

    class Endless(Quiet):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while sum(sent) < 200_000_000:
                    sent.append(self.wfile.write(bytes(1_000_000)))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    home = register([f"http://127.0.0.1:{server.server_port}/"], PLAIN)
    with pytest.raises(DownloadFailed, match="other bytes than the registered SHA-256"):
        fetch()
    server.shutdown()
    server.server_close()
    assert not home.exists() and sum(sent) < 50_000_000


def test_what_a_killed_download_left_is_swept_at_the_next_start(serve, register):
    """The next start, even of a set that is there; what another process still works on stays."""
    home = register([serve({"toy.bin": PLAIN})], PLAIN)
    code = (
        "import sys, time; from pathlib import Path; from gmbook.data import download\n"
        "with download._staging(Path(sys.argv[1])) as staging:\n"
        "    (staging / 'half').write_bytes(b'x'); print('begun', flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(download.__file__).parents[2])}
    command = [sys.executable, "-c", code, str(home)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        fetch()
        (working,) = home.glob(".fetch-*")
        assert (working / "half").exists()
        process.kill()
    assert working.exists()
    fetch()
    assert files_below(home) == {"toy", "toy/toy.bin"}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS], ids=["permission", "read-only disk"])
def test_a_folder_that_cannot_be_written_is_one_clear_line(serve, register, monkeypatch, code):
    """By what the system says, since root may write where permissions forbid it."""
    home = register([serve({"toy.bin": PLAIN})], PLAIN)
    home.mkdir()

    def refuse(path, *args, **kwargs):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(DownloadFailed, match=r"cannot write in .*home .*set GMBOOK_DATA") as caught:
        fetch()
    assert "\n" not in str(caught.value) and files_below(home) == set()


def test_a_file_in_place_of_the_folder_is_one_clear_line(register):
    home = register([unreachable()], PLAIN)
    home.write_text("a file")
    with pytest.raises(DownloadFailed, match="cannot write in"):
        fetch()


def test_a_full_disk_is_named_and_leaves_nothing(serve, register, monkeypatch):
    archive = make_tar(("inner.bin", INNER))
    home = register([serve({"toy.tar.gz": archive})], archive, "toy.tar.gz", ["inner.bin"])

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    with pytest.raises(DownloadFailed, match="the disk is full"):
        fetch()
    assert not home.exists()


UNSAFE = {
    "parent": ("toy.tar.gz", make_tar(("../escape.bin", b"x"), ("inner.bin", INNER))),
    "deep parent": ("toy.tar.gz", make_tar(("inner.bin", INNER), ("a/../../escape.bin", b"x"))),
    "absolute": ("toy.tar.gz", make_tar(("/tmp/escape.bin", b"x"), ("inner.bin", INNER))),
    "symbolic link": ("toy.tar.gz", make_tar(special("inner.bin", tarfile.SYMTYPE))),
    "hard link": ("toy.tar.gz", make_tar(special("inner.bin", tarfile.LNKTYPE))),
    "device": ("toy.tar.gz", make_tar(special("null", tarfile.CHRTYPE), ("inner.bin", INNER))),
    "zip parent": ("toy.zip", make_zip(("../escape.bin", b"x"), ("inner.bin", INNER))),
    "zip absolute": ("toy.zip", make_zip(("/tmp/escape.bin", b"x"), ("inner.bin", INNER))),
    "zip backslash": ("toy.zip", make_zip(("..\\escape.bin", b"x"), ("inner.bin", INNER))),
    "zip drive": ("toy.zip", make_zip(("C:/escape.bin", b"x"), ("inner.bin", INNER))),
}


def zip_with_link():
    link = zipfile.ZipInfo("inner.bin")
    link.external_attr = 0o120777 << 16
    return make_zip((link, b"/etc/passwd"))


@pytest.mark.parametrize("name, archive", UNSAFE.values(), ids=UNSAFE.keys())
def test_unsafe_archives_are_refused_whole(serve, register, tmp_path, name, archive):
    home = register([serve({name: archive})], archive, name, ["inner.bin"])
    with pytest.raises(DataCorrupt, match="not safe to unpack"):
        fetch()
    assert not home.exists()
    assert not list(tmp_path.rglob("escape.bin")) and not Path("/tmp/escape.bin").exists()


def test_a_link_in_a_zip_file_becomes_a_plain_file_and_is_not_the_sets(serve, register):
    home = register([serve({"toy.zip": zip_with_link()})], zip_with_link(), "toy.zip", ["inner.bin"])
    with pytest.raises(DataCorrupt, match=r"toy\.zip holds another inner\.bin"):
        fetch()
    assert not home.exists()


@pytest.mark.parametrize(
    "name, archive",
    [
        ("toy.tar.gz", make_tar(("other.bin", b"x"))),
        ("toy.zip", make_zip(("other.bin", b"x"))),
        ("toy.tar.gz", make_tar(("inner.bin", os.urandom(50_000)))[:30_000]),
        ("toy.zip", make_zip(("inner.bin", INNER))[:-30]),
        ("toy.tar.gz", b"<html>"),
        ("toy.zip", b"<html>"),
    ],
    ids=["tar lacks", "zip lacks", "tar cut", "zip cut", "tar html", "zip html"],
)
def test_archives_that_lack_or_break_are_named(serve, register, name, archive):
    home = register([serve({name: archive})], archive, name, ["inner.bin"])
    with pytest.raises(DataCorrupt, match=rf"{name} (lacks inner\.bin|cannot be unpacked).*fetch it again"):
        fetch()
    assert not home.exists()


# ---------------------------------------------------------------------------------------- the registry


def test_the_registry_names_what_every_download_needs():
    assert set(download.registry()) == {"digits", "prose", "mnist", "cifar10", "text8"}
    for entry in download.registry().values():
        assert entry.licence and entry.citation and entry.official.startswith("http")
        assert entry.embedded or len(entry.bases) >= 2  # a home and a mirror
        assert all(base.endswith("/") and base.startswith("http") for base in entry.bases)
        for source in entry.sources:
            assert len(bytes.fromhex(source.sha256)) == 32 and source.bytes > 0
            assert all(".." not in file.parts and not file.is_absolute() for file in source.files)
        for digests in entry.files.values():
            assert digests and all(len(digest.split(":")[1]) == {"s": 64, "m": 32}[digest[0]] for digest in digests)
    assert list(download.entry("cifar10").files)[5] == PurePosixPath("cifar-10-batches-bin/test_batch.bin")
    assert list(download.entry("text8").files) == [PurePosixPath("text8/text8")]


def test_the_registered_bytes_are_those_of_the_official_mnist_files(data_home):
    folder = download.require("mnist")
    for source in download.entry("mnist").sources:
        (file,) = source.files
        raw = (folder / file).read_bytes()
        assert (len(raw), hashlib.sha256(raw).hexdigest()) == (source.bytes, source.sha256)


def test_digits_are_always_there(nowhere):
    assert download.available("digits") and download.fetch("digits").is_dir()
    assert not nowhere.exists()


def test_absent_and_unknown_sets(nowhere):
    assert download.locate("mnist") is None and not download.available("mnist")
    with pytest.raises(DataMissing, match="gmbook data mnist"):
        download.require("mnist")
    with pytest.raises(ValueError, match="digits, prose, mnist, cifar10, text8"):
        download.fetch("imagenet")
    with pytest.raises(ValueError, match="did you mean mnist"):
        download.fetch("mnits")


def test_an_empty_variable_names_no_folder(monkeypatch):
    monkeypatch.setenv("GMBOOK_DATA", "")
    assert download.homes() == [download.cache()]
    monkeypatch.setenv("GMBOOK_DATA", "~/somewhere")
    assert download.homes() == [Path.home() / "somewhere", download.cache()]


IN_A_NOTEBOOK = """
import sys, types
shell = types.SimpleNamespace(get_ipython=lambda: None)
sys.modules |= {"IPython": shell, "ipykernel.zmqshell": shell, "ipywidgets": None}
from gmbook.data import archives
archives.the_pooch()
"""


def test_data_are_read_without_a_word_in_a_notebook_without_widgets():
    """A warning is output there, and a cell whose output is compared would fail where widgets are missing."""
    done = subprocess.run([sys.executable, "-c", IN_A_NOTEBOOK], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
