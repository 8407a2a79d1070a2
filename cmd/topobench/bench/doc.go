// Package bench measures what the buses cost: [Writers] what they take from who writes, [Latency] how long an event
// takes to its client, and [Topologies] what an event costs a server that has many topologies attached. And it measures
// what clients cost a server of any make: [Connect], [Fanout], [Spread] and [Storm], ours beside the least that could
// do it, and [Compare], ours beside others.
//
// What is compared is measured in one run, in rounds that take turns (A B C A B C …), so that a noisy machine hits all
// alike; a figure is the median of the rounds, and a ratio the median of the rounds' ratios. Every event that was
// committed must arrive exactly once and in order: a run in which one did not is an error and no measurement.
package bench
