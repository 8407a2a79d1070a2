"""TOKEN=… python3 follow.py http://127.0.0.1:8080 <topology id>: prints each event; resumes by itself (httpx)."""
import json, os, sys, time, httpx

def lines(response):  # iter_lines of newer versions also splits at U+2028 and U+0085, which an event may hold
    rest = b""
    for part in response.iter_bytes():
        *whole, rest = (rest + part).split(b"\n")
        yield from (line.decode() for line in whole)

def follow(url, topology, token):
    last = ""
    while True:
        headers = {"Authorization": "Bearer " + token, "Last-Event-ID": last}
        try:
            with httpx.stream("GET", f"{url}/api/v1/topologies/{topology}/events", headers=headers, timeout=45) as r:
                r.status_code == 429 or r.status_code >= 500 or r.raise_for_status()  # any other refusal is final
                frame = {}
                for line in lines(r):
                    name, _, value = line.partition(": ")
                    frame[name] = value
                    if line == "" and "data" in frame:
                        last = frame.get("id", last)
                        yield frame["event"], json.loads(frame["data"])
                    frame = frame if line else {}
        except httpx.TransportError:
            pass  # whoever resumes misses nothing
        time.sleep(1)

for event, data in follow(sys.argv[1], sys.argv[2], os.environ["TOKEN"]):
    print(event, json.dumps(data), flush=True)
