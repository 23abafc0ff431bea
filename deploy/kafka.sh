#!/usr/bin/env bash
# One Apache Kafka node on loopback, for development and CI. Never for production: one replica,
# no authentication, heap of 1 GB.
#
#   deploy/kafka.sh fetch                      download Kafka with Maven (56 MB, once)
#   deploy/kafka.sh start   [dir] [port]       start and wait until it answers; prints host:port
#   deploy/kafka.sh stop    [dir] [port]       stop gracefully
#   deploy/kafka.sh restart [dir] [port]       stop, then start on the same data
#   deploy/kafka.sh kill    [dir] [port]       kill -9
#   deploy/kafka.sh status  [dir] [port]       0 and host:port if it runs, 3 if not
#
# dir   settings, data and log of this node (default ~/.cache/tidemill/kafka/node)
# port  of the clients; port + 1 is the controller's (default 9092)
# Needs java 17 or later and, to fetch, mvn. TIDEMILL_KAFKA_HOME moves the downloaded files.
set -euo pipefail

VERSION=4.3.1
START_WAIT_S=90
STOP_WAIT_S=60

usage() { sed -n '2,15p' "$0" | sed 's/^# \{0,1\}//' >&2; exit 2; }
[ $# -ge 1 ] && [ $# -le 3 ] || usage

verb=$1
home=${TIDEMILL_KAFKA_HOME:-$HOME/.cache/tidemill/kafka}
dir=${2:-$home/node}
port=${3:-9092}
case $port in ''|*[!0-9]*) usage ;; esac
classpath_file=$home/classpath-$VERSION.txt

fail() { echo "kafka.sh: $*" >&2; exit 1; }

running_pid() {
  local pid
  pid=$(cat "$dir/pid" 2>/dev/null) || return 1
  # The id may have been given to another process since.
  tr '\0' ' ' < "/proc/$pid/cmdline" 2>/dev/null | grep -q "kafka.Kafka $dir/server.properties" || return 1
  echo "$pid"
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

fetch() {
  [ -s "$classpath_file" ] && return
  command -v mvn >/dev/null || fail "mvn is not installed; it is needed to fetch Apache Kafka"
  mkdir -p "$home"
  cat > "$home/pom.xml" <<XML
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tidemill</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$VERSION</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
XML
  (cd "$home" && mvn -q -B dependency:build-classpath -Dmdep.outputFile="$classpath_file.tmp") >&2
  mv "$classpath_file.tmp" "$classpath_file"
}

configure() {
  mkdir -p "$dir"
  cat > "$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$dir/data
num.partitions=4
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.check.interval.ms=1000
log.initial.task.delay.ms=1000
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
PROPERTIES
  if [ ! -d "$dir/data" ]; then
    local id
    id=$(java -cp "$(cat "$classpath_file")" kafka.tools.StorageTool random-uuid 2>/dev/null)
    java -cp "$(cat "$classpath_file")" kafka.tools.StorageTool format --standalone \
      -t "$id" -c "$dir/server.properties" >"$dir/format.log" 2>&1 \
      || fail "could not format $dir/data: $(tail -3 "$dir/format.log")"
  fi
}

start() {
  command -v java >/dev/null || fail "java is not installed; Apache Kafka needs 17 or later"
  fetch
  if running_pid >/dev/null; then
    answers || fail "a node runs in $dir but does not answer on port $port"
    echo "127.0.0.1:$port"
    return
  fi
  ! answers || fail "port $port is taken by another process"
  configure
  setsid nohup java -Xmx1g -cp "$(cat "$classpath_file")" kafka.Kafka "$dir/server.properties" \
    </dev/null >>"$dir/server.log" 2>&1 &
  echo $! > "$dir/pid"
  local deadline=$((SECONDS + START_WAIT_S))
  # The port opens before the node is ready; the log says when it is.
  until answers && tail -c 20000 "$dir/server.log" | grep -q "Kafka Server started"; do
    running_pid >/dev/null || kill -0 "$(cat "$dir/pid")" 2>/dev/null \
      || fail "Kafka ended while starting: $(tail -3 "$dir/server.log")"
    [ $SECONDS -lt $deadline ] || fail "Kafka did not start within $START_WAIT_S s, see $dir/server.log"
    sleep 0.1
  done
  echo "127.0.0.1:$port"
}

# signal, seconds to wait
end() {
  local pid deadline=$((SECONDS + $2))
  pid=$(running_pid) || return 0
  kill "-$1" "$pid"
  # A killed process gives its port back a moment after its command line is gone.
  while running_pid >/dev/null || answers; do
    [ $SECONDS -lt $deadline ] || fail "Kafka (pid $pid) did not end within $2 s"
    sleep 0.05
  done
  rm -f "$dir/pid"
  # What the next start waits for must not be found in the log of this run.
  mv -f "$dir/server.log" "$dir/server.log.1" 2>/dev/null || true
}

case $verb in
  fetch) fetch ;;
  start) start ;;
  stop) end TERM $STOP_WAIT_S ;;
  kill) end KILL 10 ;;
  restart) end TERM $STOP_WAIT_S; start ;;
  status)
    if running_pid >/dev/null && answers; then echo "127.0.0.1:$port"; else echo "not running" >&2; exit 3; fi ;;
  *) usage ;;
esac
