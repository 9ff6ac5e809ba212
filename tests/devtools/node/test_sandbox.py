from __future__ import annotations

import subprocess
from pathlib import Path

from meshproxy.devtools.node.sandbox import Bind, as_user, closed_folders, first_process, further_process, script
from meshproxy.devtools.node.spec import Capabilities, Container, SecurityContext, Spec


def test_volumes_are_mounted_in_order_and_then_the_command_runs(tmp_path: Path) -> None:
    inner, file = Bind(tmp_path, "/etc/a/b", is_read_only=True), tmp_path / "f"
    file.touch()
    text = script(
        [inner, Bind(file, "/etc/a.conf", is_read_only=False)],
        {"/srv": ["/srv/x", "/srv/y"]},
        tmp_path,
        ["a b", "c"],
    )
    *_, root, scratch, reach, place, bind, mount, remount, home, tell, closed, command = text.splitlines()
    assert (root, scratch) == ("root /etc/a/b", 'mount -t tmpfs -o mode=755 scratch "$SCRATCH"')
    assert reach == "reach /srv /srv/x /srv/y"
    assert bind == f"mount --bind {file} /etc/a.conf"
    assert (place, mount) == ("place /etc/a/b", f"mount --bind {tmp_path} /etc/a/b")
    assert remount == "mount -o remount,bind,ro /etc/a/b"
    assert (home, tell, closed, command) == ("cd /", "echo >&0", "exec </dev/null", "exec 'a b' c")
    subprocess.run(["sh", "-n", "-c", text], check=True)


def test_namespaces() -> None:
    command = first_process(Path("/run/netns/pod"), "true")
    assert command[:3] == ["nsenter", "--net=/run/netns/pod", "unshare"]
    assert {"--mount", "--pid", "--fork", "--kill-child"} < set(command)
    assert command[-3:] == ["sh", "-c", "true"]
    assert further_process(7, ["true"])[:2] == ["nsenter", "--target=7"]


def test_users() -> None:
    own = SecurityContext(run_as_user=1, run_as_group=2, capabilities=Capabilities(drop=("ALL",)))
    pods = Spec((), security_context=SecurityContext(run_as_user=3, fs_group=4))
    plain = Container("a")
    assert as_user(Spec(()), plain, ["c"]) == ["c"]
    assert as_user(pods, plain, ["c"]) == ["setpriv", "--reuid=3", "--regid=0", "--groups=4", "c"]
    dropped = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    context = Container("a", security_context=own)
    expected = ["setpriv", "--reuid=1", "--regid=2", "--clear-groups", *dropped, "c"]
    assert as_user(Spec(()), context, ["c"]) == expected


def test_folders_that_only_their_owner_may_enter(tmp_path: Path) -> None:
    program = tmp_path / "home" / "own" / "program"
    program.mkdir(parents=True)
    (tmp_path / "home").chmod(0o700)
    ((closed, needed),) = closed_folders([program, program]).items()
    assert needed == [str(program), str(program)]
    assert Path(closed) in program.parents
    assert not Path(closed).stat().st_mode & 0o001
    assert all(each.stat().st_mode & 0o001 for each in Path(closed).parents)
    assert closed_folders([Path("/usr/bin")]) == {}
