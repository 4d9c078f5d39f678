package mdmtest

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"math/big"
	"sync"
)

// KeyPool makes RSA keys for large fleets: it draws few primes and multiplies
// each with each, so that ten thousand different keys cost 142 primes. Keys that
// share a prime break each other: for simulators only. No key is handed out twice.
type KeyPool struct {
	bits int

	mu     sync.Mutex
	primes []*big.Int
	next   int // partner of the newest prime
}

// NewKeyPool makes keys of the given size; 2048 is what profiles ask for.
func NewKeyPool(bits int) (*KeyPool, error) {
	if bits < 1024 || bits%16 != 0 {
		return nil, errors.New("mdmtest: a key pool needs an even key size of 1024 bits or more")
	}
	return &KeyPool{bits: bits}, nil
}

// Key returns a key that nobody had before.
func (p *KeyPool) Key() (*rsa.PrivateKey, error) {
	a, b, err := p.pair()
	if err != nil {
		return nil, err
	}
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(a, one), new(big.Int).Sub(b, one))
	key := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(a, b), E: publicExponent},
		D:         new(big.Int).ModInverse(big.NewInt(publicExponent), phi),
		Primes:    []*big.Int{new(big.Int).Set(a), new(big.Int).Set(b)},
	}
	key.Precompute()
	return key, key.Validate()
}

const publicExponent = 65537

// pair returns two primes that were not multiplied yet.
func (p *KeyPool) pair() (a, b *big.Int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.primes) < 2 || p.next == len(p.primes)-1 {
		prime, err := rand.Prime(rand.Reader, p.bits/2) // its two top bits are set, so the product has all bits
		if err != nil {
			return nil, nil, err
		}
		if new(big.Int).Mod(prime, big.NewInt(publicExponent)).Cmp(big.NewInt(1)) == 0 {
			continue // the exponent would have no inverse
		}
		p.primes, p.next = append(p.primes, prime), 0
	}
	p.next++
	return p.primes[len(p.primes)-1], p.primes[p.next-1], nil
}
