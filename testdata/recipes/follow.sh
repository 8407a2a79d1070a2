#!/bin/sh
# Follows a topology with curl: prints every frame, reconnects, and resumes behind the last whole one.
# TOKEN=… testdata/recipes/follow.sh http://127.0.0.1:8080 <topology id>
state=$(mktemp) && trap 'rm -f "$state" "$state.head"' EXIT && trap exit INT TERM
id=
while :; do
    curl -sSN -D "$state.head" -H "Authorization: Bearer $TOKEN" -H "Last-Event-ID: $(cat "$state")" \
        "$1/api/v1/topologies/$2/events" | while IFS= read -r line; do
        printf '%s\n' "$line"
        case $line in
        'id: '*) id=${line#id: } ;;
        '') [ -z "$id" ] || printf %s "$id" >"$state" ;;
        esac
    done
    case $(head -n 1 "$state.head") in
    *' 40'[0134]' '*) exit 1 ;; # another try gets the same
    esac
    sleep 1
done
