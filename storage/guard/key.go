package guard

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"fmt"
	"math"
	"math/big"
)

// Sizes of RSA keys that are worked with, in bits. A larger one costs the
// verifier time that grows with its square, a smaller one costs its owner nothing.
const (
	minRSABits = 2048
	maxRSABits = 4096
)

// CheckPublicKey says whether pub, an [*rsa.PublicKey] or [*ecdsa.PublicKey], is
// one that a certificate may be issued for: RSA of 2048 to 4096 bits with a sane
// exponent and a modulus that is not trivially factored, or ECDSA on P-256,
// P-384 or P-521.
func CheckPublicKey(pub any) error {
	if err := checkKeyBounds(pub); err != nil {
		return err
	}
	if key, ok := pub.(*rsa.PublicKey); ok {
		return checkModulus(key.N)
	}
	return nil
}

// checkKeyBounds says whether an operation with pub costs a bounded time. It
// comes before each of them, and costs nothing.
func checkKeyBounds(pub any) error { return checkKeyBoundsFrom(pub, minRSABits) }

// checkKeyBoundsFrom is checkKeyBounds with another least size of RSA keys.
func checkKeyBoundsFrom(pub any, least int) error {
	switch key := pub.(type) {
	case *rsa.PublicKey:
		if key == nil || key.N == nil {
			return fmt.Errorf("%w: no modulus", ErrKey)
		}
		if bits := key.N.BitLen(); bits < least || bits > maxRSABits {
			return fmt.Errorf("%w: RSA of %d bits, not %d to %d", ErrKey, bits, least, maxRSABits)
		}
		// 65537 is what everybody uses. 3 is for signatures as weak as the
		// strictness of whoever checks them.
		if key.E <= 3 || key.E&1 == 0 || int64(key.E) > 1<<31-1 {
			return fmt.Errorf("%w: RSA exponent %d", ErrKey, key.E)
		}
		if key.N.Sign() <= 0 || key.N.Bit(0) == 0 {
			return fmt.Errorf("%w: RSA modulus is even", ErrKey)
		}
		return nil
	case *ecdsa.PublicKey:
		if key == nil {
			return fmt.Errorf("%w: no point", ErrKey)
		}
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return fmt.Errorf("%w: ECDSA on another curve than P-256, P-384 and P-521", ErrKey)
	default:
		return fmt.Errorf("%w: neither RSA nor ECDSA", ErrKey)
	}
}

// checkModulus refuses an odd modulus that a short search factors: one with a
// small factor, or with factors so close to each other that Fermat's method
// finds them. Broken key generators have made both.
func checkModulus(n *big.Int) error {
	rest := new(big.Int)
	for _, chunk := range smallPrimes() {
		r := rest.Mod(n, new(big.Int).SetUint64(chunk.product)).Uint64()
		for _, p := range chunk.primes {
			if r%p == 0 {
				return fmt.Errorf("%w: RSA modulus has the factor %d", ErrKey, p)
			}
		}
	}

	// n = a² - b² = (a-b)(a+b), with a from the root of n upwards.
	a := new(big.Int).Sqrt(n)
	if new(big.Int).Mul(a, a).Cmp(n) == 0 {
		return fmt.Errorf("%w: RSA modulus is a square", ErrKey)
	}
	a.Add(a, big.NewInt(1))
	gap := new(big.Int).Mul(a, a)
	gap.Sub(gap, n) // b², if it is a square
	root, square := new(big.Int), new(big.Int)
	for range fermatSteps {
		if squaresMod64>>(gap.Bits()[0]&63)&1 != 0 { // else no need to look closer; gap is never zero here
			root.Sqrt(gap)
			if square.Mul(root, root).Cmp(gap) == 0 {
				return fmt.Errorf("%w: RSA modulus has two factors close to each other", ErrKey)
			}
		}
		// (a+1)² = a² + 2a + 1
		gap.Add(gap, square.Lsh(a, 1))
		gap.Add(gap, big.NewInt(1))
		a.Add(a, big.NewInt(1))
	}
	return nil
}

// fermatSteps finds factors that agree in their upper half plus a few bits.
// Of generators known to be weak, one step found every key.
const fermatSteps = 16

// squaresMod64 has a bit for each remainder that a square leaves when divided by
// 64: 12 of them.
const squaresMod64 uint64 = 0x0202021202030213

// primeChunk is a run of primes whose product fits 64 bits.
type primeChunk struct {
	product uint64
	primes  []uint64
}

// smallPrimes returns the odd primes below 1000.
func smallPrimes() []primeChunk {
	chunks := make([]primeChunk, 0, 32)
	c := primeChunk{product: 1}
	composite := make([]bool, 1000)
	for p := uint64(3); p < 1000; p += 2 {
		if composite[p] {
			continue
		}
		for m := p * p; m < 1000; m += 2 * p {
			composite[m] = true
		}
		if c.product > math.MaxUint64/p {
			chunks = append(chunks, c)
			c = primeChunk{product: 1}
		}
		c.product *= p
		c.primes = append(c.primes, p)
	}
	return append(chunks, c)
}
