package apns

import "time"

// Hasten makes the client less patient, before its first push.
func (c *Client) Hasten(request, look time.Duration) { c.requestTime, c.lookEvery = request, look }
