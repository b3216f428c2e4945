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
from infra.local.process import Part

HOST = "127.0.0.1"
ACCESS_KEY = "local-access-key"
SECRET_KEY = "local-secret-key"  # noqa: S105 - opens nothing but the store on this machine's loopback interface
REGION = "us-east-1"

_KAFKA = "org.apache.kafka:kafka_2.13:4.3.1+org.slf4j:slf4j-simple:1.7.36"
_S3 = "org.gaul:s3proxy:4.1.0"
# Any fixed id works, because only this node reads the folder.
_CLUSTER = "bG9jYWwtYWktaW1hZ2UtZw"

_KAFKA_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
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

_S3_PROPERTIES = """\
s3proxy.endpoint=http://{host}:{port}
s3proxy.authorization=aws-v2-or-v4
s3proxy.identity={access_key}
s3proxy.credential={secret_key}
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
    """One KRaft node that keeps its data in `folder`. Only the node itself uses `controller_port`."""

    folder: Path
    port: int
    controller_port: int

    @property
    def bootstrap(self) -> str:
        """The address for clients."""
        return f"{HOST}:{self.port}"

    def command(self) -> list[str]:
        """Write the configuration, format the folder the first time, and give the command that runs the broker."""
        folder = self.folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        properties = folder / "server.properties"
        properties.write_text(
            _KAFKA_PROPERTIES.format(host=HOST, port=self.port, controller_port=self.controller_port, folder=folder)
        )
        if not (folder / "data" / "meta.properties").exists():
            subprocess.run(
                java(_KAFKA, "kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(properties)),
                check=True,
                capture_output=True,
                text=True,
            )
        options = (
            "-Xmx512m",
            "--sun-misc-unsafe-memory-access=allow",  # otherwise Java warns at every start about what Kafka uses
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        )
        return java(_KAFKA, "kafka.Kafka", str(properties), options=options)

    def part(self) -> Part:
        """The broker as a part."""
        return Part("kafka", tuple(self.command()), ready=self.ready, grace=3)

    def ready(self) -> bool:
        """Whether it answers as a broker."""
        if not listens(self.port):
            return False
        try:
            metadata = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0}).list_topics(timeout=2)
        except KafkaException:
            return False
        return bool(metadata.brokers)


@dataclass(frozen=True)
class S3:
    """An S3 server that keeps objects as plain files in `folder`."""

    folder: Path
    port: int

    @property
    def endpoint_url(self) -> str:
        """The address for clients."""
        return f"http://{HOST}:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """A client's settings, by the usual AWS names."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
        }

    def command(self) -> list[str]:
        """Write the configuration and give the command that runs the server."""
        folder = self.folder.resolve()
        (folder / "data").mkdir(parents=True, exist_ok=True)
        logback = folder / "logback.xml"
        logback.write_text(_LOGBACK)
        properties = folder / "s3proxy.conf"
        properties.write_text(
            _S3_PROPERTIES.format(
                host=HOST, port=self.port, access_key=ACCESS_KEY, secret_key=SECRET_KEY, folder=folder
            )
        )
        options = ("-Xmx256m", f"-Dlogback.configurationFile={logback}")
        return java(_S3, "org.gaul.s3proxy.Main", "--properties", str(properties), options=options)

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
