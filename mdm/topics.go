package mdm

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// topicBucket holds the push topic of each device that can be woken by one, under the
	// device's id. PutDevice keeps it.
	topicBucket = "device_topics"

	// topicCounts holds how many devices of topicBucket a topic has: the sum of what stands
	// under the topic and one more byte, the shard. Of a hundred thousand devices that is 256 records to
	// read, and devices that enrol at the same time seldom meet in one.
	topicCounts = "device_topics.count"
	topicShards = 256

	maxTopic = 255 // bytes; Apple's have about 60
)

// topicsKey stands beside filledKey once all devices have an entry in topicBucket.
const topicsKey = "topics"

// pushTopic is by which topic d is woken; empty: by none. A user channel counts with its
// device, and simulated devices are nobody's at Apple.
func (d Device) pushTopic() string {
	if !d.Live() || d.Push == nil || d.Demo || d.ParentID != "" || len(d.Push.Topic) > maxTopic {
		return ""
	}
	return d.Push.Topic
}

// readTopic is what [storage.Tx.Prefetch] takes for putTopic.
func readTopic(id DeviceID) storage.Read { return storage.Read{Bucket: topicBucket, Key: []byte(id)} }

// putTopic writes d's topic, and counts it, if it differs from what is stored.
func putTopic(tx storage.Tx, d Device) error {
	topic := d.pushTopic()
	old, err := tx.Get(topicBucket, []byte(d.ID))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if string(old) == topic {
		return nil
	}
	if topic == "" {
		err = tx.Delete(topicBucket, []byte(d.ID))
	} else {
		err = tx.Put(topicBucket, []byte(d.ID), []byte(topic))
	}
	return errors.Join(err, countTopic(tx, d.ID, string(old), -1), countTopic(tx, d.ID, topic, 1))
}

// countTopic adds n to the devices of a topic, in the shard of id.
func countTopic(tx storage.Tx, id DeviceID, topic string, n int) error {
	if topic == "" {
		return nil
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	key := append([]byte(topic), byte(h.Sum32()%topicShards))
	old, err := tx.Get(topicCounts, key)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if err == nil {
		have, err := strconv.Atoi(string(old))
		if err != nil {
			return fmt.Errorf("devices of topic %s: %w", topic, storage.ErrCorrupt)
		}
		n += have
	}
	if n <= 0 {
		return tx.Delete(topicCounts, key)
	}
	return tx.Put(topicCounts, key, []byte(strconv.Itoa(n)))
}

// Topics counts the enrolled devices by the push topic that they are woken by. User
// channels and simulated devices are not among them.
func (s *Service) Topics(ctx context.Context) (devices map[string]int, err error) {
	count := func(tx storage.Tx) error {
		devices = make(map[string]int)
		if has, err := hasTopics(tx); err != nil || !has {
			return errors.Join(err, errNotFilled)
		}
		for item, err := range tx.Scan(topicCounts, storage.Range{}) {
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(string(item.Value))
			if err != nil {
				return storage.ErrCorrupt
			}
			devices[string(item.Key[:len(item.Key)-1])] += n
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
