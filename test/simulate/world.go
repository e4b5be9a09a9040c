package main

import (
	"math/rand/v2"
	"time"
)

// world is the clock of a simulation and what is to happen. Nothing in it
// reads real time or global randomness: the same seed gives the same run.
type world struct {
	now    time.Time
	queue  []event // a heap by time, four children each
	random *rand.Rand
	order  uint64 // of what was planned, for two events at the same moment
}

// event is something that is to happen.
type event struct {
	at    time.Duration // since start
	order uint64
	do    func()
}

func (e *event) before(o *event) bool {
	return e.at < o.at || e.at == o.at && e.order < o.order
}

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld(seed uint64) *world {
	return &world{
		now:    start,
		random: rand.New(rand.NewPCG(seed, 0)), //nolint:gosec // a simulation is to be repeatable
	}
}

// after plans do for a moment from now.
func (w *world) after(d time.Duration, do func()) {
	w.order++
	w.queue = append(w.queue, event{w.now.Sub(start) + d, w.order, do})
	q := w.queue
	for i := len(q) - 1; i > 0; {
		parent := (i - 1) / 4
		if !q[i].before(&q[parent]) {
			break
		}
		q[i], q[parent] = q[parent], q[i]
		i = parent
	}
}

// next takes the first event off the queue.
func (w *world) next() event {
	q := w.queue
	first, last := q[0], len(q)-1
	q[0], q[last] = q[last], event{} // lets go of what it refers to
	q = q[:last]
	for i := 0; ; {
		least := i
		for child := 4*i + 1; child <= 4*i+4 && child < len(q); child++ {
			if q[child].before(&q[least]) {
				least = child
			}
		}
		if least == i {
			break
		}
		q[i], q[least] = q[least], q[i]
		i = least
	}
	w.queue = q
	return first
}

// run lets everything happen that is planned until a moment.
func (w *world) run(until time.Time) {
	for len(w.queue) > 0 && w.queue[0].at <= until.Sub(start) {
		e := w.next()
		w.now = start.Add(e.at)
		e.do()
	}
	w.now = until
}

// upTo is a random duration in [0, d].
func (w *world) upTo(d time.Duration) time.Duration {
	return time.Duration(w.random.Int64N(int64(d) + 1))
}

// about is a random wait of this mean, as between arrivals that don't know of
// each other.
func (w *world) about(mean time.Duration) time.Duration {
	return time.Duration(w.random.ExpFloat64() * float64(mean))
}
