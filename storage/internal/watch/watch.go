// Package watch wakes those who wait for news, within one process.
package watch

import "sync"

// Hub knows who watches which topic. The zero Hub is ready.
type Hub struct {
	mu      sync.Mutex
	watched map[string]map[chan struct{}]struct{}
}

// Watch returns a channel that holds a value when topic was woken since the last one was
// taken. stop ends that, and may be called more than once.
func (h *Hub) Watch(topic string) (changed <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watched == nil {
		h.watched = make(map[string]map[chan struct{}]struct{})
	}
	if h.watched[topic] == nil {
		h.watched[topic] = make(map[chan struct{}]struct{})
	}
	h.watched[topic][ch] = struct{}{}
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watched[topic], ch)
		if len(h.watched[topic]) == 0 {
			delete(h.watched, topic)
		}
	}
}

// Wake tells those who watch one of topics.
func (h *Hub) Wake(topics ...string) {
	if len(topics) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, topic := range topics {
		for ch := range h.watched[topic] {
			wake(ch)
		}
	}
}

// WakeAll tells everybody, because some news may have been lost.
func (h *Hub) WakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, watchers := range h.watched {
		for ch := range watchers {
			wake(ch)
		}
	}
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // there is one already that was not taken
	}
}
