#!/bin/sh
# Gives each node that is named a token to join with. Run again, it makes only what is missing: a node
# that has joined needs its token no more, but `serve` reads the file at every start.
set -eu
umask 077

node="${SKEP_NODE:-http://127.0.0.1:7700}"
admin="${ADMIN_DIR:-/admin}/key"
tokens="${TOKENS_DIR:-/tokens}"

missing=""
for name in "$@"; do
    [ -s "$tokens/$name" ] || missing="$missing $name"
done
# Nothing to make: do not wait for a quorum that only the others can complete.
[ -n "$missing" ] || exit 0

until curl -fsS -o /dev/null "$node/readyz"; do sleep 0.2; done

if [ ! -s "$admin" ]; then
    skep --output table --quiet --node "$node" init > "$admin.new"
    mv "$admin.new" "$admin"
fi

for name in $missing; do
    # The key goes through stdin: an argument could be read by every user of the machine.
    printf 'header = "Authorization: Bearer %s"\n' "$(cat "$admin")" |
        curl -fsS --config - -X POST "$node/admin/v1/join-tokens" |
        sed -n 's/.*"token":"\([^"]*\)".*/\1/p' > "$tokens/$name.new"
    [ -s "$tokens/$name.new" ]
    mv "$tokens/$name.new" "$tokens/$name"
done
