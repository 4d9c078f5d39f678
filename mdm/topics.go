package mdm

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// topicBucket holds the push topic of each device that can be woken by one, under the
// device's id. It repeats what stands in the Device, in a form that a hundred thousand of
// can be counted while somebody waits. PutDevice keeps it.
const topicBucket = "device_topics"

// topicsKey stands beside filledKey once all devices have an entry in topicBucket.
const topicsKey = "topics"

// pushTopic is by which topic d is woken; empty: by none. A user channel counts with its
// device, and simulated devices are nobody's at Apple.
func (d Device) pushTopic() string {
	if !d.Live() || d.Push == nil || d.Demo || d.ParentID != "" {
		return ""
	}
	return d.Push.Topic
}

// readTopic is what [storage.Tx.Prefetch] takes for putTopic.
func readTopic(id DeviceID) storage.Read { return storage.Read{Bucket: topicBucket, Key: []byte(id)} }

// putTopic writes d's topic if it differs from what is stored.
func putTopic(tx storage.Tx, d Device) error {
	topic := d.pushTopic()
	old, err := tx.Get(topicBucket, []byte(d.ID))
	switch {
	case errors.Is(err, storage.ErrNotFound):
		if topic == "" {
			return nil
		}
	case err != nil:
		return err
	case string(old) == topic:
		return nil
	case topic == "":
		return tx.Delete(topicBucket, []byte(d.ID))
	}
	return tx.Put(topicBucket, []byte(d.ID), []byte(topic))
}

// Topics counts the enrolled devices by the push topic that they are woken by. User
// channels and simulated devices are not among them.
func (s *Service) Topics(ctx context.Context) (devices map[string]int, err error) {
	count := func(tx storage.Tx) error {
		counts := make(map[string]*int) // so that counting makes no strings
		if has, err := hasTopics(tx); err != nil || !has {
			return errors.Join(err, errNotFilled)
		}
		for item, err := range tx.Scan(topicBucket, storage.Range{}) {
			if err != nil {
				return err
			}
			n := counts[string(item.Value)]
			if n == nil {
				n = new(int)
				counts[string(item.Value)] = n
			}
			*n++
		}
		devices = make(map[string]int, len(counts))
		for topic, n := range counts {
			devices[topic] = *n
		}
		return nil
	}
	err = s.db.View(ctx, count)
	if errors.Is(err, errNotFilled) {
		s.filling.Lock()
		defer s.filling.Unlock()
		if err = s.db.View(ctx, count); errors.Is(err, errNotFilled) {
			if err = s.fillRows(ctx); err == nil {
				err = s.db.View(ctx, count)
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("count devices by topic: %w", err)
	}
	return devices, nil
}

func hasTopics(tx storage.Tx) (bool, error) {
	_, err := tx.Get(rowsFilled, []byte(topicsKey))
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
