package engine

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever is put in, put forward and taken out: nobody is told before its time, nor later than a tick after it, or
// than the wheel reaches.
func TestAWheelTellsEverybodyInTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var w wheel
		now := time.Duration(rapid.IntRange(0, 1_000_000).Draw(rt, "begin")) * time.Millisecond
		w.turn(now, nil)
		due := map[*Stream]time.Duration{}
		streams := make([]*Stream, rapid.IntRange(1, 20).Draw(rt, "streams"))
		for i := range streams {
			streams[i] = &Stream{}
			due[streams[i]] = never
		}
		some := func(rt *rapid.T) *Stream { return streams[rapid.IntRange(0, len(streams)-1).Draw(rt, "which")] }
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				c := some(rt)
				at := now + time.Duration(rapid.IntRange(0, 40_000).Draw(rt, "in"))*time.Millisecond
				w.put(c, at)
				due[c] = min(due[c], at)
			},
			"remove": func(rt *rapid.T) {
				c := some(rt)
				w.remove(c)
				due[c] = never
			},
			"turn": func(rt *rapid.T) {
				if next := w.next(); next != never && rapid.Bool().Draw(rt, "wait for the next") {
					now = max(now, next)
				} else {
					now += time.Duration(rapid.IntRange(0, 30_000).Draw(rt, "pass")) * time.Millisecond
				}
				w.turn(now, func(c *Stream) {
					if at := due[c]; at > now { // it was too far away
						w.put(c, at)
						return
					}
					due[c] = never
				})
			},
			"": func(rt *rapid.T) {
				for c, at := range due {
					if (at == never) != (c.place.tick == 0) || at != never && at+tick <= now {
						rt.Fatalf("at %v: due %v, tick %d", now, at, c.place.tick)
					}
				}
			},
		})
	})
}
