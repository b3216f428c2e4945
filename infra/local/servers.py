"""A real Kafka broker and a real S3 server, each one Java process on the loopback interface."""

import socket
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.local.java import java
from infra.local.kafka_auth import Login, saved_login
from infra.local.private import UMASK, aws_credentials, private_folder, write_private
from infra.local.process import Part, Process

HOST = "127.0.0.1"
REGION = "us-east-1"

# Any fixed id works, because only this node reads the folder.
_CLUSTER = "bG9jYWwtYWktaW1hZ2UtZw"

_KAFKA_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# Lets consumers ask for a session this short, so that another consumer takes over from a killed one within seconds.
group.consumer.min.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=500
# After kill -9 the broker can only start again when its old registration has expired.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=16777216
"""
_OPEN = "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n"

_S3_PROPERTIES = """\
s3proxy.endpoint=http://{host}:{port}
s3proxy.authorization=aws-v2-or-v4
s3proxy.identity={aws_access_key_id}
s3proxy.credential={aws_secret_access_key}
jclouds.provider=filesystem-nio2
jclouds.filesystem.basedir={folder}/data
"""

_LOGBACK = """\
<configuration>
  <appender name="STDERR" class="ch.qos.logback.core.ConsoleAppender">
    <target>System.err</target>
    <encoder><pattern>%-5level %logger{0} %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="STDERR"/></root>
</configuration>
"""


@dataclass(frozen=True)
class Kafka:
    """One KRaft node that keeps its data in `folder`. Only the node itself uses `controller_port`.

    `auth`: it refuses clients without the login in `folder`/client.properties, which is random. Otherwise every client
    on this machine may read and write.
    """

    folder: Path
    port: int
    controller_port: int
    auth: bool = False

    @property
    def bootstrap(self) -> str:
        """The address for clients."""
        return f"{HOST}:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """A client's settings, as the parts read them."""
        login = self._login()
        return {"KAFKA_BOOTSTRAP_SERVERS": self.bootstrap, **(login.env if login else {})}

    def command(self) -> list[str]:
        """Write the configuration, format the folder and add the user the first time, and give the command that runs
        the broker."""
        return self._command(self._login())

    def part(self) -> Part:
        """The broker as a part."""
        return self._part(self._login())

    def _login(self) -> Login | None:
        """The login of clients; None: they need none.

        The broker keeps it with its data, so a broker that nobody else can use adds it before the first real start.
        The file is written afterwards: it exists only if the broker knows the login.
        """
        file = private_folder(self.folder.resolve()) / "client.properties"
        if not self.auth:
            return None
        if (login := saved_login(file)) is None:
            admin, login, log = Login("PLAIN"), Login(), file.with_name("adding-the-user.log")
            with Process(self._part(admin), log).running() as broker:
                login.add_to(self.bootstrap, admin.client)
                broker.terminate()
            log.unlink()
            login.save(file)
        return login

    def _command(self, login: Login | None) -> list[str]:
        folder = private_folder(self.folder.resolve())
        properties = folder / "server.properties"
        settings = _KAFKA_PROPERTIES.format(
            host=HOST, port=self.port, controller_port=self.controller_port, folder=folder
        )
        write_private(properties, settings + (login.server() if login else _OPEN))
        if not (folder / "data" / "meta.properties").exists():
            subprocess.run(
                java("kafka", "kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(properties)),
                check=True,
                capture_output=True,
                text=True,
                umask=UMASK,
            )
        private_folder(folder / "data")
        options = (
            "-Xmx512m",
            "--sun-misc-unsafe-memory-access=allow",  # otherwise Java warns at every start about what Kafka uses
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        )
        return java("kafka", "kafka.Kafka", str(properties), options=options)

    def _part(self, login: Login | None) -> Part:
        command = self._command(login)
        config = {"bootstrap.servers": self.bootstrap, "log_level": 0, **(login.client if login else {})}

        def ready() -> bool:
            """Whether it answers as a broker."""
            if not listens(self.port):
                return False
            try:
                metadata = AdminClient(config).list_topics(timeout=2)
            except KafkaException:
                return False
            return bool(metadata.brokers)

        return Part("kafka", tuple(command), ready=ready, grace=3)


@dataclass(frozen=True)
class S3:
    """An S3 server that keeps objects as plain files in `folder`.

    Its credentials are random and lie in `folder`/credentials, so that a web page or another user of this machine, who
    can reach the port, cannot sign a request.
    """

    folder: Path
    port: int

    @property
    def endpoint_url(self) -> str:
        """The address for clients."""
        return f"http://{HOST}:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """A client's settings, by the usual AWS names."""
        credentials = aws_credentials(private_folder(self.folder) / "credentials")
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            **{name.upper(): value for name, value in credentials.items()},
            "AWS_DEFAULT_REGION": REGION,
        }

    def command(self) -> list[str]:
        """Write the configuration and give the command that runs the server."""
        folder = private_folder(self.folder.resolve())
        private_folder(folder / "data")
        logback = folder / "logback.xml"
        write_private(logback, _LOGBACK)
        properties = folder / "s3proxy.conf"
        credentials = aws_credentials(folder / "credentials")
        write_private(properties, _S3_PROPERTIES.format(host=HOST, port=self.port, folder=folder, **credentials))
        options = ("-Xmx256m", f"-Dlogback.configurationFile={logback}")
        return java("s3proxy", "org.gaul.s3proxy.Main", "--properties", str(properties), options=options)

    def part(self) -> Part:
        """The server as a part."""
        return Part("s3", tuple(self.command()), ready=self.ready, grace=1)

    def ready(self) -> bool:
        """Whether it answers HTTP. It refuses a request without a signature, which is an answer too."""
        try:
            with urllib.request.urlopen(self.endpoint_url, timeout=2):  # noqa: S310 - http on the loopback interface
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False


def listens(port: int) -> bool:
    """Whether anything accepts connections on the port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0
