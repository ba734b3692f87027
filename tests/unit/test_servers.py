"""How the local servers are started, without starting one."""

from pathlib import Path

from pipeline.services.servers import Kafka


def test_a_server_leaves_no_temporary_file_outside_its_folder(tmp_path: Path) -> None:
    """Java's temporary files go to the server's own folder, which is empty again at each start."""
    server = Kafka(folder=tmp_path, keep=True)
    assert f"-Djava.io.tmpdir={tmp_path}/kafka-tmp" in server.java()
    (tmp_path / "kafka-tmp" / "unpacked.so").touch()
    server.java()
    assert list((tmp_path / "kafka-tmp").iterdir()) == []
