package fault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Monitor is told of faults. check.Monitor states what each method promises.
type Monitor interface {
	Began(fault string) (ended func())
	Promoted(ctx context.Context, oldURL, promotedURL string) error
	Read(ctx context.Context) error
}

// A Report says what a campaign did, by kind.
type Report struct {
	Injected map[string]int    // how often
	Spoiled  map[string]int    // how often another fault kept it from being injected
	Skipped  map[string]string // why it cannot be injected here
}

// Total is the number of faults injected.
func (r Report) Total() int {
	n := 0
	for _, k := range r.Injected {
		n += k
	}
	return n
}

// A Campaign injects faults in random order. Make it with New.
type Campaign struct {
	env     *Env
	kinds   []Kind
	steps   []step     // of an upgrade
	rand    *rand.Rand // of Run
	mu      sync.Mutex
	report  Report
	running map[string]bool // names of kinds that go on beside others now
	failed  error
}

// New makes a campaign of those kinds that are possible in e. The order and what is random about each fault come from
// seed.
func New(e *Env, kinds []Kind, seed uint64) *Campaign {
	c := &Campaign{
		env: e, rand: rand.New(rand.NewPCG(seed, 0)), running: map[string]bool{},
		report: Report{Injected: map[string]int{}, Spoiled: map[string]int{}, Skipped: map[string]string{}},
	}
	for _, k := range kinds {
		if why := k.Impossible(e); why != "" {
			c.report.Skipped[k.Name] = why
		} else {
			c.kinds = append(c.kinds, k)
		}
	}
	return c
}

// Report says what was done so far.
func (c *Campaign) Report() Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Report{maps.Clone(c.report.Injected), maps.Clone(c.report.Spoiled), maps.Clone(c.report.Skipped)}
}

const (
	recoverTimeout = 60 * time.Second
	longestRest    = 700 * time.Millisecond // between recovery and the next fault
	companyOneIn   = 4                      // one fault in so many has company
)

// Run injects faults until ctx ends, mends the last one and returns when every server works again. Each kind comes once
// in random order, then again in another one. It is an error when what was mended does not work again within a minute.
func (c *Campaign) Run(ctx context.Context, m Monitor) error {
	if len(c.kinds) == 0 && len(c.steps) == 0 {
		return errors.New("no fault is possible here: each says why")
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var beside sync.WaitGroup
	defer beside.Wait()
	c.env.monitor = m
	deck := c.shuffled()
	c.hurry(deck)
	draw := func() Kind {
		if len(deck) == 0 {
			deck = c.shuffled()
		}
		k := deck[0]
		deck = deck[1:]
		return k
	}
	begun := time.Now()
	for ctx.Err() == nil && c.err() == nil {
		c.takeSteps(ctx, m, begun, &beside)
		if ctx.Err() != nil || c.err() != nil {
			break
		}
		k := draw()
		if k.beside {
			if c.begin(k) {
				beside.Go(func() { c.inject(ctx, m, k); c.end(k) })
			}
			if len(c.kinds) == 1 {
				beside.Wait()
			}
			hold(ctx, c.rest())
			continue
		}
		var company sync.WaitGroup
		if len(deck) > 0 && !deck[0].beside && deck[0].part != k.part && c.rand.IntN(companyOneIn) == 0 {
			other := draw()
			company.Go(func() { c.inject(ctx, m, other) })
		}
		c.inject(ctx, m, k)
		company.Wait()
		c.recover(ctx, k)
		hold(ctx, c.rest())
	}
	stop()
	beside.Wait()
	c.recover(ctx, Kind{Name: "the last fault"})
	return errors.Join(c.err(), c.unfinished())
}

// shuffled gives all kinds in random order.
func (c *Campaign) shuffled() []Kind {
	c.mu.Lock()
	defer c.mu.Unlock()
	deck := slices.Clone(c.kinds)
	c.rand.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	return deck
}

// soon is how many faults may come before an early one.
const soon = 3

// hurry brings early kinds to the front, behind a few others.
func (c *Campaign) hurry(deck []Kind) {
	for i, k := range deck {
		if to := c.rand.IntN(soon + 1); k.early && i > to {
			copy(deck[to+1:i+1], deck[to:i])
			deck[to] = k
		}
	}
}

func (c *Campaign) rest() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return between(c.rand, 0, longestRest)
}

// begin tells whether k, which goes on beside others, does not run yet.
func (c *Campaign) begin(k Kind) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running[k.Name] {
		return false
	}
	c.running[k.Name] = true
	return true
}

func (c *Campaign) end(k Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.running, k.Name)
}

func (c *Campaign) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

func (c *Campaign) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = errors.Join(c.failed, err)
}

func (c *Campaign) inject(ctx context.Context, m Monitor, k Kind) {
	c.mu.Lock()
	r := rand.New(rand.NewPCG(c.rand.Uint64(), c.rand.Uint64()))
	c.mu.Unlock()
	begun := time.Now()
	c.env.Logger.Info("fault", "kind", k.Name)
	ended := m.Began(k.Name)
	err := k.inject(ctx, c.env, r)
	ended()
	took := time.Since(begun).Round(time.Millisecond)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.report.Injected[k.Name]++
		c.env.Logger.Info("mended", "kind", k.Name, "took", took)
	case errors.Is(err, errSpoiled) && ctx.Err() != nil: // the campaign's end kept it
		c.env.Logger.Info("given up", "kind", k.Name, "took", took)
	case errors.Is(err, errSpoiled):
		c.report.Spoiled[k.Name]++
		c.env.Logger.Info("spoiled", "kind", k.Name, "took", took, "error", err)
	default:
		c.failed = errors.Join(c.failed, fmt.Errorf("%s: %w", k.Name, err))
	}
}

// recover waits until every server works.
func (c *Campaign) recover(ctx context.Context, after Kind) {
	if c.env.Stage == nil {
		return // there is nobody to ask
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recoverTimeout)
	defer cancel()
	begun := time.Now()
	if err := c.env.Stage.AwaitReady(ctx); err != nil {
		c.fail(fmt.Errorf("after %s: %w", after.Name, err))
		return
	}
	c.env.Logger.Info("recovered", "after", after.Name, "took", time.Since(begun).Round(time.Millisecond))
}

// Select gives the kinds that a list names: all, or kinds and their first words parted by commas, as in
// "postgres,server.kill".
func Select(list string) ([]Kind, error) {
	var chosen []Kind
	for word := range strings.SplitSeq(list, ",") {
		word = strings.TrimSpace(word)
		n := len(chosen)
		for _, k := range Kinds() {
			family, _, _ := strings.Cut(k.Name, ".")
			if (word == "all" || word == k.Name || word == family) &&
				!slices.ContainsFunc(chosen[:n], func(c Kind) bool { return c.Name == k.Name }) {
				chosen = append(chosen, k)
			}
		}
		if len(chosen) == n {
			return nil,
				fmt.Errorf("--faults: %q names no fault, or none that was not named before: use all, a family, for example "+
					"postgres, or a kind: %s", word, strings.Join(Names(), ", "))
		}
	}
	return chosen, nil
}

// Names are those of all kinds.
func Names() []string {
	kinds := Kinds()
	names := make([]string, 0, len(kinds))
	for _, k := range kinds {
		names = append(names, k.Name)
	}
	return names
}
