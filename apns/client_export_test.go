package apns

import (
	"context"
	"sync"
	"time"
)

// LookEvery has the client look so often at the certificate of an open connection. It is called
// before its first push.
func (c *Client) LookEvery(d time.Duration) { c.lookEvery = d }

// WaitUntilTold has pushes wait for their answers for no time, but until timeUp is called, which
// ends the waits under way. It is called before the client's first push.
func (c *Client) WaitUntilTold() (timeUp func()) {
	var mu sync.Mutex
	told := make(chan struct{})
	c.limit = func(ctx context.Context) (context.Context, context.CancelFunc) {
		mu.Lock()
		defer mu.Unlock()
		limited, cancel := context.WithCancel(ctx)
		go func(told <-chan struct{}) {
			select {
			case <-told:
				cancel()
			case <-limited.Done():
			}
		}(told)
		return limited, cancel
	}
	return func() {
		mu.Lock()
		defer mu.Unlock()
		close(told)
		told = make(chan struct{})
	}
}
