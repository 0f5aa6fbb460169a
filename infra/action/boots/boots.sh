#!/bin/sh
# Launches a version with LXD or Incus, waits until it runs a command, and posts the result of that check.
# Needs a POSIX shell, curl, and a client with its daemon. Copy it to the machine that tests images.
set -eu

usage() {
  cat <<'USAGE'
Usage: boots.sh --path PATH --remote NAME [OPTION]... [-- COMMAND...]

Launches each image of a version by its fingerprint, waits until COMMAND succeeds in it, deletes it, and posts to the
upload API whether all of them passed. A channel that requires the check then accepts the version.

  --path PATH         the version, images/<os>/<release>/<arch>/<variant>/<version>
  --remote NAME       your client's name for the server
  --api URL           address of the upload API                [environment: SIMPLESTREAMS_API]
  --with CLIENT       incus or lxc                             [default: incus]
  --check NAME        the name of the check                    [default: boots]
  --url URL           where this run can be read
  --patience SECONDS  how long a guest may take                [default: 120]
  -h, --help          this text
  COMMAND             run in the guest                         [default: true]

Who you are: a bearer token in SIMPLESTREAMS_TOKEN, in a GitHub job with `id-token: write` SIMPLESTREAMS_AUDIENCE, or
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN. The caller needs the right check:NAME.

Exit codes: 0 passed, and posted; 1 failed, and posted; 2 wrong usage; 3 nothing was posted: the version is not listed,
the client does not see it, or the API refused the result.
USAGE
}

wrong_usage() {
  printf 'boots.sh: %s; see --help\n' "$*" >&2
  exit 2
}

not_posted() {
  printf 'boots.sh: %s; nothing was posted\n' "$*" >&2
  exit 3
}

# Without the end of a line that a value from a file brings along, of Windows too.
unended() { printf '%s' "$1" | tr -d '\r\n'; }

escaped() { printf '%s' "$1" | sed 's/[\\"]/\\&/g'; }

# Write the credentials as options of curl: as arguments, every user of the machine would see them.
authenticate() {
  token=$(unended "${SIMPLESTREAMS_TOKEN:-}")
  if [ -z "$token" ] && [ -n "${ACTIONS_ID_TOKEN_REQUEST_URL:-}" ] && [ -n "${SIMPLESTREAMS_AUDIENCE:-}" ]; then
    printf 'header = "Authorization: bearer %s"\n' "$ACTIONS_ID_TOKEN_REQUEST_TOKEN" >"$work/github"
    token=$(curl -sS --fail -K "$work/github" "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=$SIMPLESTREAMS_AUDIENCE" |
      sed -n 's/.*"value" *: *"\([^"]*\)".*/\1/p')
    [ -n "$token" ] || not_posted "GitHub gave no token; the job needs \`permissions: id-token: write\`"
  fi
  if [ -n "$token" ]; then
    printf 'header = "Authorization: Bearer %s"\n' "$token" >"$work/who"
    return
  fi
  [ -n "${AWS_ACCESS_KEY_ID:-}" ] || not_posted "there are no credentials: set SIMPLESTREAMS_TOKEN or AWS_ACCESS_KEY_ID"
  region=$(printf '%s' "$api" | sed -n 's/.*\.execute-api\.\([^.]*\)\..*/\1/p')
  {
    printf 'aws-sigv4 = "aws:amz:%s:execute-api"\n' "${region:-${AWS_REGION:-${AWS_DEFAULT_REGION:-us-east-1}}}"
    printf 'user = "%s:%s"\n' "$(unended "$AWS_ACCESS_KEY_ID")" "$(escaped "$(unended "${AWS_SECRET_ACCESS_KEY:-}")")"
    if [ -n "${AWS_SESSION_TOKEN:-}" ]; then printf 'header = "x-amz-security-token: %s"\n' "$(unended "$AWS_SESSION_TOKEN")"; fi
  } >"$work/who"
}

# ask CURL-OPTION...: make one request, and repeat it while the API is unavailable; set $http, and write $work/answer.
ask() {
  authenticate
  for pause in 1 4 15 0; do
    : >"$work/answer"
    http=$(curl -sS -K "$work/who" -H 'Accept: text/plain' --max-time 60 -o "$work/answer" -w '%{http_code}' "$@") ||
      http=000
    case $http in
      000 | 429 | 5??) sleep "$pause" ;;
      *) return ;;
    esac
  done
}

said() { if [ -s "$work/answer" ]; then sed 's/^detail //; /^problem /d' "$work/answer" | head -c 1000 | tr '\n' ' '; else echo "$http"; fi; }

launch() {
  instance=check-$$-$(printf '%.8s' "$1")
  kind=$("$client" image info "$remote:$1" 2>"$work/error" | sed -n 's/^Type: //p') || true
  [ -n "$kind" ] || not_posted "$client does not see $1 at $remote: $(tr '\n' ' ' <"$work/error")"
  set -- "$1" "$instance"
  if [ "$kind" = virtual-machine ]; then set -- "$@" --vm; fi
  image=$1
  shift
  "$client" launch "$remote:$image" "$@" </dev/null
}

# boots FINGERPRINT COMMAND...: succeed if the image runs the command in time; leave nothing behind.
boots() {
  image=$1
  shift
  passes=
  if launch "$image"; then
    until=$(($(date +%s) + patience))
    while :; do
      if "$client" exec "$instance" -- "$@" </dev/null; then
        passes=yes
        break
      fi
      [ "$(date +%s)" -lt "$until" ] || break
      sleep 1
    done
  fi
  clean_up_instance
  [ -n "$passes" ]
}

clean_up_instance() {
  if [ -n "$instance" ]; then "$client" delete --force "$instance" </dev/null >/dev/null 2>&1 || true; fi
  instance=
}

clean_up() {
  clean_up_instance
  rm -rf "$work"
}

path='' remote='' api=${SIMPLESTREAMS_API:-} client=incus check=boots url='' patience=120 instance=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --)
      shift
      break
      ;;
    --path | --remote | --api | --with | --check | --url | --patience)
      [ $# -gt 1 ] || wrong_usage "$1 wants a value"
      case $1 in
        --path) path=$2 ;;
        --remote) remote=$2 ;;
        --api) api=$2 ;;
        --with) client=$2 ;;
        --check) check=$2 ;;
        --url) url=$2 ;;
        --patience) patience=$2 ;;
      esac
      shift 2
      ;;
    *) wrong_usage "$1 is no option" ;;
  esac
done
[ $# -gt 0 ] || set -- true
[ -n "$path" ] || wrong_usage "name the version with --path"
[ -n "$remote" ] || wrong_usage "name the server with --remote"
[ -n "$api" ] || wrong_usage "name the upload API with --api or SIMPLESTREAMS_API"
case $client in incus | lxc) ;; *) wrong_usage "--with is $client, expected incus or lxc" ;; esac
case $patience in '' | *[!0-9]*) wrong_usage "--patience is $patience, expected whole seconds" ;; esac
api=$(unended "$api")
api=${api%/}

work=$(umask 077 && mktemp -d)
trap clean_up EXIT
trap 'exit 130' HUP INT TERM

ask "$api/versions/$(printf '%s' "$path" | tr : '~')?wait=25"
[ "$http" = 200 ] || not_posted "the API answers about $path: $(said)"
fingerprints=$(sed -n 's/^fingerprint //p' "$work/answer")
[ -n "$fingerprints" ] || not_posted "$path is not listed: $(sed -n 's/^status //p' "$work/answer")"

passed=true listed=''
for fingerprint in $fingerprints; do
  listed="$listed${listed:+, }\"$fingerprint\""
  boots "$fingerprint" "$@" || passed=false
done

printf '{"path": "%s", "check": "%s", "passed": %s, "fingerprints": [%s], "url": "%s"}' \
  "$(escaped "$path")" "$(escaped "$check")" "$passed" "$listed" "$(escaped "$url")" >"$work/result"
ask --data-binary "@$work/result" "$api/checks"
[ "$http" = 200 ] || not_posted "the API refuses the result: $(said)"
cat "$work/answer"
[ "$passed" = true ]
