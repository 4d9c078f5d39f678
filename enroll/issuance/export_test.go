package issuance

import "github.com/gatehouse-mdm/gatehouse/storage"

// MaxStatic is how many certificates a network gets for one static challenge in a minute.
const MaxStatic = maxStatic

// SpendStatic counts n certificates more for the static challenge of a template.
func SpendStatic(tx storage.Tx, s *Service, template, peer string, n int) error {
	c, err := s.counted(tx, counterKey("static", template, network(peer)), quotaWindow)
	if err != nil {
		return err
	}
	c.Count += n
	return counters.Put(tx, c)
}
