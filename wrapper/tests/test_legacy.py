# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of an old pusher, good and broken, and the inventory that is made of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from mipfed import legacy, legacy_files, vault_files
from mipfed.errors import MipfedError
from mipfed.exitcodes import ExitCode
from mipfed.legacy_files import NOTE, PROBLEM, TAKEN, Remarks

from .conftest import Project

HOSTS = """\
[master]
master ansible_host=192.0.2.1
master home_path=/opt/mip/
master data_path=/data/tbi-net/

master remote_user="{{master_remote_user}}"
master become_user="{{master_become_user}}"
master ansible_become_pass="{{master_become_pass}}"
master ansible_ssh_pass="{{master_ssh_pass}}"

[workers]
worker192_0_2_11
worker192_0_2_12

[worker192_0_2_11]
worker192_0_2_11 ansible_host=192.0.2.11
worker192_0_2_11 hostname=tbi-net-wk-a
worker192_0_2_11 data_path=/data/tbi-net/

worker192_0_2_11 remote_user="{{worker192_0_2_11_remote_user}}"
worker192_0_2_11 become_user="{{worker192_0_2_11_become_user}}"
worker192_0_2_11 ansible_become_pass="{{worker192_0_2_11_become_pass}}"
worker192_0_2_11 ansible_ssh_pass="{{worker192_0_2_11_ssh_pass}}"

[worker192_0_2_12]
worker192_0_2_12 ansible_host=192.0.2.12
worker192_0_2_12 hostname=tbi-net-wk-b
worker192_0_2_12 data_path=/data/tbi-net/

worker192_0_2_12 remote_user="{{worker192_0_2_12_remote_user}}"
worker192_0_2_12 become_user="{{worker192_0_2_12_become_user}}"
worker192_0_2_12 ansible_become_pass="{{worker192_0_2_12_become_pass}}"
worker192_0_2_12 ansible_ssh_pass="{{worker192_0_2_12_ssh_pass}}"
"""
PASSWORDS = {"master": "canary-1", "worker192_0_2_11": "canary-2:{{ x }}'\"", "worker192_0_2_12": "12345"}
VAULT = "".join(
    f"{host}_remote_user: mipadmin\n{host}_become_user: root\n{host}_ssh_pass: {word}\n{host}_become_pass: {word}\n"
    for host, word in PASSWORDS.items()
)
SSH = """\
Host tbi-net-ms tbi-net-ms.example
  Hostname 192.0.2.1
  User mipadmin
  IdentityFile /opt/tbi-net/exareme/.ssh/id_rsa

Host tbi-net-ui
  Hostname 192.0.2.2
  User mipadmin
  IdentityFile /opt/tbi-net/exareme/.ssh/id_rsa

#Host tbi-net-wk-a
  Hostname 192.0.2.11
  User mipadmin
  IdentityFile /opt/tbi-net/exareme/.ssh/id_rsa

Host tbi-net-wk-b
  Hostname 192.0.2.12
  User mipadmin
  Port 2222
  IdentityFile /opt/tbi-net/exareme/.ssh/id_rsa
"""
ENV = """\
MIP_TYPE=fed
NODE_TYPE=ui
MIP_LINK=proxied
PUBLIC_MIP_PROTOCOL=http
PUBLIC_MIP_HOST="mip.example.org"
EXAREME_IP=192.0.2.1
KEYCLOAK_AUTHENTICATION=1
KEYCLOAK_PROTOCOL=https
KEYCLOAK_URL=iam.example.org
KEYCLOAK_REALM=MIP
KEYCLOAK_CLIENT_ID=mipfedqa
KEYCLOAK_CLIENT_SECRET=canary=secret
"""
COMPOSE = """\
version: '3.2'
networks:
  mip-federation:
    external: true
services:
  exareme-keystore:
    image: bitnami/consul:1.8.3
    environment:
      - CONSUL_BIND_INTERFACE=lo
  exareme-master:
    image: ${EXAREME_IMAGE}
    environment:
      - CONSULURL=${EXAREME_KEYSTORE}
      - FEDERATION_ROLE=master
      - NODE_NAME=${FEDERATION_NODE}
      - TEMP_FILES_CLEANUP_TIME=60
      - NODE_COMMUNICATION_TIMEOUT=30000
      - ENVIRONMENT_TYPE=PROD
      - LOG_LEVEL=INFO
      - CONVERT_CSVS=TRUE
"""


def pusher(folder: Path, *, vault: str | None = None, **texts: str) -> Path:
    """Write the files of a pusher as the script leaves them."""
    ansible = folder / "Federated-Deployment" / "docker-swarm" / "Docker-Ansible"
    files = {
        "hosts": (ansible / "hosts.ini", HOSTS),
        "ssh": (folder / ".ssh" / "config", SSH),
        "env": (folder / ".mipenv", ENV),
        "image": (ansible / "group_vars" / "exareme.yaml", 'EXAREME_IMAGE: "hbpmip/exareme"\nEXAREME_TAG: "24.5.0"\n'),
        "compose": (ansible.parent / "Compose-Files" / "docker-compose-master.yml", COMPOSE),
        "vault": (ansible / "vault.yaml", VAULT),
    }
    for kind, (path, text) in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        written = texts.get(kind, text)
        path.write_text(vault_files.encrypted(written, vault) if kind == "vault" and vault else written, encoding="utf-8")
    return folder


def said(found: legacy.Found | Remarks, level: str) -> str:
    """Return all remarks of a level, as one text."""
    remarks = found.remarks if isinstance(found, legacy.Found) else found.all
    return "\n".join(f"{remark.where}: {remark.message}" for remark in remarks if remark.level == level)


def read(folder: Path, **names: str) -> legacy.Found:
    """Read what a folder has, with the vault's password."""
    return legacy.read(legacy.locate([folder]), names, lambda _path: "old")


def lines(reader: object, text: str) -> tuple[object, Remarks]:
    """Read a text with a reader."""
    remarks = Remarks(Path("file"))
    return reader(text, remarks), remarks  # type: ignore[operator]


def test_everything_of_a_pusher(tmp_path: Path) -> None:
    found = read(pusher(tmp_path, vault="old"))
    assert not found.problems
    assert [(node.name, node.kind, node.address, node.port, node.user, node.enabled) for node in found.nodes] == [
        ("tbi-net-ms", "master", "192.0.2.1", 22, "mipadmin", True),
        ("tbi-net-ui", "ui", "192.0.2.2", 22, "mipadmin", True),
        ("tbi-net-wk-a", "worker", "192.0.2.11", 22, "mipadmin", False),
        ("tbi-net-wk-b", "worker", "192.0.2.12", 2222, "mipadmin", True),
    ]
    assert [node.password for node in found.nodes] == ["canary-1", "", "canary-2:{{ x }}'\"", "12345"]
    assert (found.engine_image, found.keystore_image, found.keystore_data) == (
        "hbpmip/exareme:24.5.0", "bitnamilegacy/consul:1.8.3", "/bitnami/consul",
    )  # fmt: skip
    assert found.engine == {"temp_files_cleanup_minutes": 60}
    assert found.variables["mip_federation"] == "tbi-net" and "mip_data_root" not in found.variables
    assert found.variables["mip_keycloak"] == {"realm": "MIP", "client_id": "mipfedqa", "url": "https://iam.example.org"}
    assert found.variables["mip_ui"]["enabled"] is False and found.variables["mip_ui"]["public_host"] == "mip.example.org"
    assert found.secrets == {"mip_keycloak_client_secret": "canary=secret"}
    assert "canary" not in said(found, TAKEN) + said(found, NOTE)
    assert "CONVERT_CSVS is on" in said(found, NOTE) and "bitnami/consul:1.8.3 is not to be had" in said(found, NOTE)


def test_the_inventory_is_whole_and_has_no_secret_in_clear(project: Project, tmp_path: Path) -> None:
    folder = pusher(tmp_path / "pusher", vault="old")
    (tmp_path / "password").write_text("old\n")
    done = project.run("import-legacy", "tbi", "--from", str(folder), "--vault-password-file", str(tmp_path / "password"), "-o", "json")
    assert done.code == ExitCode.OK, done.out + done.err
    assert "canary" not in done.out + done.err and "12345" not in done.out + done.err
    inventory = project.root / "inventories" / "tbi"
    written = {path.relative_to(inventory).as_posix(): path.read_text() for path in inventory.rglob("*") if path.is_file()}
    assert not [name for name, text in written.items() if "canary" in text or "12345" in text]
    encrypted = sorted(name for name in written if name.endswith("vault.yml"))
    assert encrypted == [
        "group_vars/all/vault.yml", *(f"host_vars/tbi-net-{name}/vault.yml" for name in ("ms", "wk-a", "wk-b")),
    ]  # fmt: skip
    assert all((inventory / name).stat().st_mode & 0o777 == 0o600 for name in encrypted)
    shown = project.run("-f", "tbi", "config", "show", "-o", "json").document["result"]
    assert [node["name"] for node in shown["nodes"]] == ["tbi-net-ms", "tbi-net-ui", "tbi-net-wk-b"]
    assert [node["name"] for node in shown["disabled"]] == ["tbi-net-wk-a"] and shown["data_dir"] == "/data/tbi-net"
    assert next(node for node in shown["nodes"] if node["name"] == "tbi-net-wk-b")["ssh_port"] == 2222
    # What Ansible reads is the password, byte by byte.
    text = vault_files.decrypted(written["host_vars/tbi-net-wk-a/vault.yml"], "old", inventory)
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("!unsafe", lambda _loader, node: node.value)
    assert yaml.load(text, Loader=loader) == {"mip_first_password": PASSWORDS["worker192_0_2_11"]}

    before = {path: path.read_bytes() for path in inventory.rglob("*") if path.is_file()}
    again = project.run("import-legacy", "tbi", "--from", str(folder), "--vault-password-file", str(tmp_path / "password"))
    assert again.code == ExitCode.OK and "Nothing is missing" in again.out, again.out + again.err
    assert before == {path: path.read_bytes() for path in inventory.rglob("*") if path.is_file()}


def test_a_second_import_adds_what_is_missing_and_refuses_what_contradicts(project: Project, tmp_path: Path) -> None:
    folder = pusher(tmp_path / "pusher")
    assert project.run("import-legacy", "tbi", "--without-secrets", "--from", str(folder)).code == ExitCode.OK
    more = HOSTS.replace("worker192_0_2_12\n\n", "worker192_0_2_12\nc\n\n", 1) + "\n[c]\nc ansible_host=192.0.2.13 hostname=tbi-net-wk-c\n"
    assert project.run("import-legacy", "tbi", "--without-secrets", "--from", str(pusher(folder, hosts=more))).code == ExitCode.OK
    assert "tbi-net-wk-c" in (project.root / "inventories/tbi/hosts.yml").read_text()
    moved = pusher(folder, hosts=HOSTS.replace("ansible_host=192.0.2.12", "ansible_host=192.0.2.99"), ssh="")
    done = project.run("import-legacy", "tbi", "--without-secrets", "--from", str(moved), "--name", "192.0.2.1=tbi-net-ms")
    assert done.code == ExitCode.CONFIGURATION and "192.0.2.12 already" in done.err


def test_a_wrong_vault_password_writes_nothing(project: Project, tmp_path: Path) -> None:
    folder = pusher(tmp_path / "pusher", vault="old")
    (tmp_path / "password").write_text("new\n")
    done = project.run("import-legacy", "tbi", "--from", str(folder), "--vault-password-file", str(tmp_path / "password"))
    assert done.code == ExitCode.CONFIGURATION and "cannot be decrypted" in done.err
    assert not list((project.root / "inventories").iterdir())
    done = project.run("import-legacy", "tbi", "--from", str(folder))
    assert done.code == ExitCode.CONFIGURATION and "no terminal" in done.err
    assert project.run("import-legacy", "tbi", "--without-secrets", "--from", str(folder), "--check").code == ExitCode.OK
    assert not list((project.root / "inventories").iterdir())


def test_a_vault_in_clear_is_told_and_encrypted(project: Project, tmp_path: Path) -> None:
    folder = pusher(tmp_path / "pusher")
    (tmp_path / "password").write_text("fresh\n")
    done = project.run("import-legacy", "tbi", "--from", str(folder), "--vault-password-file", str(tmp_path / "password"))
    assert done.code == ExitCode.OK and "in clear text" in done.out, done.out + done.err
    path = project.root / "inventories/tbi/host_vars/tbi-net-ms/vault.yml"
    assert "canary-1" in vault_files.decrypted(path.read_text(), "fresh", path)


BROKEN = {
    "no master": (HOSTS.replace("[master]", "[boss]"), "", "the group master has 0 hosts"),
    "two masters": (HOSTS.replace("[workers]", "second ansible_host=192.0.2.9\n[workers]"), "", "the group master has 2 hosts"),
    "no address": (HOSTS.replace("worker192_0_2_11 ansible_host=192.0.2.11\n", ""), SSH, "hosts.ini:12: the host worker192_0_2_11 has no"),
    "no hostname": (HOSTS.replace("worker192_0_2_12 hostname=tbi-net-wk-b\n", ""), "", "nothing tells the hostname of worker192_0_2_12"),
    "capitals": (HOSTS.replace("hostname=tbi-net-wk-b", "hostname=Hospital_B"), SSH, "Hospital_B is no name that a node can keep"),
    "quotes": (HOSTS.replace("hostname=tbi-net-wk-a", 'hostname="tbi-net-wk-a'), SSH, "hosts.ini:17: the quotes do not match"),
    "pattern": (HOSTS.replace("[workers]", "[workers]\nworker[1:3]"), SSH, "hosts.ini:12: worker[1:3] is a pattern"),
    "header": (HOSTS.replace("[workers]", "[work ers]"), SSH, "hosts.ini:11: this is no group"),
    "no workers": (HOSTS[: HOSTS.index("[workers]")], SSH, "the group workers has no hosts"),
    "empty workers": (HOSTS[: HOSTS.index("worker192")], SSH, "the group workers has no hosts"),
    "no value": (HOSTS.replace("hostname=tbi-net-wk-a", "tbi-net-wk-a"), SSH, "hosts.ini:17: after the host worker192_0_2_11"),
    "port": (HOSTS.replace("[workers]", "master ansible_port=many\n[workers]"), SSH, "'many' is no port"),
    "data apart": (HOSTS.replace("_11 data_path=/data/tbi-net/", "_11 data_path=/srv/x"), SSH, "/srv/x: tbi-net-wk-a"),
    "data name": (HOSTS.replace("/data/tbi-net/", "/home/exareme/Data"), SSH, "/home/exareme/Data"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_told_by_line_and_nothing_is_written(project: Project, tmp_path: Path, case: str) -> None:
    hosts, ssh, words = BROKEN[case]
    folder = pusher(tmp_path / "pusher", hosts=hosts, ssh=ssh)
    assert words in said(read(folder), PROBLEM)
    done = project.run("import-legacy", "tbi", "--without-secrets", "--from", str(folder))
    assert done.code == ExitCode.CONFIGURATION and "was not written" in done.err
    assert not list((project.root / "inventories").iterdir())


def test_a_name_can_be_given(tmp_path: Path) -> None:
    folder = pusher(tmp_path, hosts=BROKEN["no hostname"][0])
    found = legacy.read(legacy.locate([folder]), {"192.0.2.12": "hospital-b"}, None)
    assert [node.name for node in found.nodes if node.kind == "worker"] == ["tbi-net-wk-a", "hospital-b"] and not found.problems


def test_the_ssh_configuration_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(SSH)
    found = legacy.read(legacy.locate([tmp_path / "config"]), {}, None)
    assert [(node.kind, node.name, node.enabled) for node in found.nodes] == [
        ("master", "tbi-net-ms", True), ("ui", "tbi-net-ui", True), ("worker", "tbi-net-wk-a", False), ("worker", "tbi-net-wk-b", True),
    ]  # fmt: skip


def test_a_file_twice_and_files_that_are_none(tmp_path: Path) -> None:
    pusher(tmp_path / "one")
    pusher(tmp_path / "two")
    with pytest.raises(MipfedError, match=r"has 2 files that could be"):
        legacy.locate([tmp_path])
    assert legacy.locate([tmp_path / "one"])["hosts"].is_relative_to(tmp_path / "one")
    (tmp_path / "other.txt").write_text("")
    for path, words in ((tmp_path / "other.txt", "none of the files"), (tmp_path / "gone", "does not exist")):
        with pytest.raises(MipfedError, match=words):
            legacy.locate([path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MipfedError, match="neither a hosts"):
        legacy.locate([tmp_path / "empty"])


def test_hosts_ini_in_other_layouts() -> None:
    text = (
        "# c\n; c\n[master]\nm ansible_host='192.0.2.1'  # the master\n\n[workers:children]\nhospitals\n"
        '[hospitals]\nw:2201 a=1 b="x y"\n[all:vars]\ndata_path = /data/x\n[hospitals:vars]\nansible_port=99\n'
    )
    found, remarks = lines(legacy_files.hosts_ini, text)
    assert isinstance(found, legacy_files.HostsIni) and not remarks.all
    assert found.groups == {"master": ["m"], "workers": ["w"], "hospitals": ["w"], "all": []}
    values = {host: {key: value.text for key, value in inner.items()} for host, inner in found.variables.items()}
    assert values == {
        "m": {"ansible_host": "192.0.2.1", "data_path": "/data/x"},
        "w": {"ansible_port": "2201", "a": "1", "b": "x y", "data_path": "/data/x"},
    }


def test_hosts_ini_survives_anything() -> None:
    """Lines left out, doubled, cut and shuffled: never an exception, and never a value that no line has."""
    generator = random.Random(7)
    original = HOSTS.splitlines()
    for _round in range(300):
        changed = [line for line in original if generator.random() > 0.1]
        if generator.random() < 0.3:
            generator.shuffle(changed)
        position = generator.randrange(len(changed))
        changed[position] = changed[position][: generator.randrange(len(changed[position]) + 1)] + generator.choice(
            ["", '"', "[", "=", "#", "é"]
        )
        text = "\n".join(changed)
        found, remarks = lines(legacy_files.hosts_ini, text)
        assert isinstance(found, legacy_files.HostsIni)
        assert all(value.text in text for values in found.variables.values() for value in values.values())
        assert all(0 <= remark.line <= len(changed) for remark in remarks.all)


def test_values_that_the_script_did_not_quote() -> None:
    text = "---\na: yes\nb: 0123\nc: pass word\nd: cut #off\ne: 'quoted: #1'\nf:\na: twice\n"
    found, remarks = lines(legacy_files.vault_yaml, text)
    assert {key: value.text for key, value in found.items()} == {  # type: ignore[attr-defined]
        "a": "twice", "b": "0123", "c": "pass word", "d": "cut", "e": "quoted: #1", "f": "",
    }  # fmt: skip
    assert "behind ' #' in d" in said(remarks, NOTE) and "a was given before, on line 2" in said(remarks, NOTE)
    assert "off" not in said(remarks, NOTE).replace("of the value", "")


@pytest.mark.parametrize("password", ["*star", "{brace", "[x", "@at", "`tick", "%percent", "&and", "!bang", "a: b", '"half'])
def test_passwords_that_break_yaml_are_read_as_they_stand(password: str) -> None:
    found, remarks = lines(legacy_files.vault_yaml, f"x_ssh_pass: {password}\nx_become_pass: fine\n")
    values = {key: value.text for key, value in found.items()}  # type: ignore[attr-defined]
    assert values == {"x_ssh_pass": password, "x_become_pass": "fine"}
    assert password not in said(remarks, NOTE) + said(remarks, PROBLEM)


def test_ssh_config_oddities() -> None:
    text = (
        "# Host keys are not verified\n# Host of the\nCompression yes\nHost=a\n HostName=192.0.2.1\nhost b c\n\thostname 192.0.2.2\n"
        ' User "x"\n ForwardAgent yes\nHost *\n User y\nInclude other\n# Host d\n#  Hostname 192.0.2.4\n'
    )
    found, remarks = lines(legacy_files.ssh_config, text)
    assert [(s.names, s.enabled, {k: v.text for k, v in s.options.items()}) for s in found] == [  # type: ignore[attr-defined]
        (["a"], True, {"hostname": "192.0.2.1"}),
        (["b", "c"], True, {"hostname": "192.0.2.2", "user": "x"}),
        (["d"], False, {"hostname": "192.0.2.4"}),
    ]
    words = said(remarks, NOTE)
    assert "file:3: Compression" in words and "file:9: ForwardAgent" in words and "file:10: settings for a pattern" in words


def test_mipenv_oddities(tmp_path: Path) -> None:
    found, remarks = lines(legacy_files.mipenv, "# c\n\nexport A='x=y'\nB=\"\"\nA=z\nnonsense\n1A=2\n")
    assert {key: value.text for key, value in found.items()} == {"A": "z", "B": ""}  # type: ignore[attr-defined]
    assert said(remarks, PROBLEM).count("NAME=VALUE") == 2 and "A was given before, on line 3" in said(remarks, NOTE)
    env = ENV.replace("MIP_LINK=proxied", "MIP_LINK=sideways").replace("MIP_TYPE=fed", "MIP_TYPE=local") + "FOO=1\n"
    found_all = read(pusher(tmp_path, env=env.replace("EXAREME_IP=192.0.2.1", "EXAREME_IP=10.0.0.1")))
    assert ".mipenv:3: MIP_LINK is 'sideways'" in said(found_all, PROBLEM) and "no federation" in said(found_all, PROBLEM)
    assert ".mipenv:13: FOO means nothing" in said(found_all, NOTE) and found_all.variables["mip_ui"]["engine_address"] == "10.0.0.1"


def test_images_and_settings(tmp_path: Path) -> None:
    found = read(pusher(tmp_path, image="EXAREME_IMAGE: x\n"))
    assert "it has no EXAREME_TAG" in said(found, PROBLEM)
    found = read(pusher(tmp_path, image="EXAREME_IMAGE: r.example:5000/x\nEXAREME_TAG: 22.10\n"))
    assert found.engine_image == "r.example:5000/x:22.10" and not found.problems
    found = read(pusher(tmp_path, image="a: [\n"))
    assert "it is no YAML" in said(found, PROBLEM)
    compose = (
        COMPOSE.replace("bitnami/consul:1.8.3", "r.example/keystore:1.8.7").replace("=30000", "=soon").replace("LOG_LEVEL=INFO", "EXTRA=1")
    )
    found = read(pusher(tmp_path, compose=compose))
    assert found.keystore_image == "r.example/keystore:1.8.7" and not found.keystore_data
    assert "NODE_COMMUNICATION_TIMEOUT is 'soon'" in said(found, PROBLEM) and found.engine["environment"] == {"EXTRA": "1"}


def test_other_users_and_sudo_passwords(project: Project, tmp_path: Path) -> None:
    secrets = VAULT.replace("worker192_0_2_11_remote_user: mipadmin", "worker192_0_2_11_remote_user: anna")
    secrets = secrets.replace("worker192_0_2_12_become_pass: 12345", "worker192_0_2_12_become_pass: 54321")
    folder = pusher(tmp_path / "pusher", vault="old", **{})
    path = next(folder.rglob("vault.yaml"))
    path.write_text(vault_files.encrypted(secrets, "old"))
    assert "another password for sudo" in said(read(folder), NOTE)
    (tmp_path / "password").write_text("old\n")
    done = project.run("import-legacy", "tbi", "--from", str(folder), "--vault-password-file", str(tmp_path / "password"))
    assert done.code == ExitCode.OK, done.err
    hosts = yaml.safe_load((project.root / "inventories/tbi/hosts.yml").read_text())["all"]["children"]
    assert hosts["workers"]["hosts"]["tbi-net-wk-a"]["mip_first_user"] == "anna"
    assert "54321" not in done.out + done.err
