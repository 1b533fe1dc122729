package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/agentkernel/agentkernel/internal/image/layer"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Registries fetches images from registries. Its methods may be called from several goroutines.
type Registries struct {
	// Cache keeps layers.
	Cache Cache
	// Keychain has the users' names and passwords; authn.DefaultKeychain reads docker's and podman's configuration and asks
	// their credential helpers. Without one, nobody logs in.
	Keychain authn.Keychain
	// Mirrors are tried before a registry itself.
	Mirrors Mirrors
	// Say, when set, is told what a user may wonder about: waits, and mirrors that fail.
	Say func(line string)

	patience  patience          // the default one when empty
	transport http.RoundTripper // for tests
}

func (r *Registries) say(line string) {
	if r.Say != nil {
		r.Say(line)
	}
}

func (r *Registries) waits() patience {
	if r.patience == (patience{}) {
		return defaultPatience
	}
	return r.patience
}

// repository is one repository of one registry, or of a mirror.
type repository struct {
	registry *Registries
	repo     name.Repository
	mirror   bool

	once   sync.Mutex
	client *http.Client
}

// repositories are where an image may be had, in the order in which they are tried.
func (r *Registries) repositories(n Name) []*repository {
	var list []*repository
	for _, repo := range r.Mirrors.of(n) {
		list = append(list, &repository{registry: r, repo: repo, mirror: true})
	}
	return append(list, &repository{registry: r, repo: n.ref.Context()})
}

// connect logs in, the first time.
func (p *repository) connect(ctx context.Context) (*http.Client, error) {
	p.once.Lock()
	defer p.once.Unlock()
	if p.client != nil {
		return p.client, nil
	}
	keychain := p.registry.Keychain
	if keychain == nil {
		keychain = authn.NewMultiKeychain()
	}
	auth, err := authn.Resolve(ctx, keychain, p.repo)
	if err != nil {
		return nil, sandbox.Errorf(sandbox.Unavailable, "see docker's config.json, and the credential helper that it names", "get the password for %s: %w", p.repo.RegistryStr(), err)
	}
	base := p.registry.transport
	if base == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = time.Minute
		t.DisableCompression = true // blobs are taken as they are
		base = t
	}
	rt, err := transport.NewWithContext(ctx, p.repo.Registry, auth, &retrying{base, p.registry.waits(), p.registry.say}, []string{p.repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, p.explain(err)
	}
	p.client = &http.Client{Transport: rt}
	return p.client, nil
}

// get sends a request for a manifest or a blob, and returns the answer if its status is one of want.
func (p *repository) get(ctx context.Context, method, what string, header http.Header, want ...int) (*http.Response, error) {
	client, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("%s://%s/v2/%s/%s", p.repo.Scheme(), p.repo.RegistryStr(), p.repo.RepositoryStr(), what)
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := client.Do(req)
	if err == nil {
		resp.Body = watch(resp.Body, p.registry.waits().stall, cancel)
		if err = transport.CheckError(resp, want...); err != nil {
			_ = resp.Body.Close()
		}
	} else {
		cancel(nil)
	}
	if err != nil {
		return nil, p.explain(err)
	}
	return resp, nil
}

// manifest gets an index or manifest by tag or digest, and its digest.
func (p *repository) manifest(ctx context.Context, id string) (data []byte, digest string, err error) {
	header := http.Header{"Accept": {strings.Join(append(append([]string{}, indexTypes...), manifestTypes...), ", ")}}
	resp, err := p.get(ctx, http.MethodGet, "manifests/"+id, header, http.StatusOK)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if data, err = readBounded(resp.Body, maxManifest, "image's manifest"); err != nil {
		return nil, "", err
	}
	digest = digestOf(data)
	if strings.HasPrefix(id, "sha256:") && id != digest {
		return nil, "", fmt.Errorf("the manifest from %s is not what was asked for: %w", p.repo.RegistryStr(), &layer.DigestError{Want: id, Got: digest})
	}
	return data, digest, nil
}

// blob opens a blob from an offset on, or from its beginning when the registry cannot.
func (p *repository) blob(ctx context.Context, digest string, offset int64) (io.ReadCloser, int64, error) {
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := p.get(ctx, http.MethodGet, "blobs/"+digest, header, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, 0, nil
	}
	var from int64
	if n, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); n != 1 || err != nil || from != offset {
		_ = resp.Body.Close()
		return nil, 0, fmt.Errorf("%s sent the range %.50q instead of %d-", p.repo.RegistryStr(), resp.Header.Get("Content-Range"), offset)
	}
	return resp.Body, from, nil
}

// small gets a blob into memory.
func (p *repository) small(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	if err := checkDigest(d.Digest.String()); err != nil {
		return nil, err
	}
	body, _, err := p.blob(ctx, d.Digest.String(), 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := readBounded(body, maxConfig, "image's configuration")
	if err != nil {
		return nil, err
	}
	return data, checkBytes(data, d.Digest.String())
}

func checkBytes(data []byte, digest string) error {
	if got := digestOf(data); got != digest {
		return fmt.Errorf("the image's configuration is not what its manifest names: %w", &layer.DigestError{Want: digest, Got: got})
	}
	return nil
}

// explain words a registry's refusal for a user.
func (p *repository) explain(err error) error {
	host := p.repo.RegistryStr()
	if host == hubRegistry {
		host = "docker.io"
	}
	repo := host + "/" + p.repo.RepositoryStr()
	var refused *transport.Error
	if errors.As(err, &refused) {
		switch refused.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			hint := "log in with docker login " + host + "; some registries answer like this when there is no such image"
			return permanent{sandbox.Errorf(sandbox.Invalid, hint, "%s does not let this user read %s: %w", host, repo, err)}
		case http.StatusNotFound:
			return permanent{sandbox.Errorf(sandbox.NotFound, "check the name and tag", "%s has no such image or layer in %s: %w", host, repo, err)}
		case http.StatusTooManyRequests:
			hint := "try again later, log in with docker login " + host + " for a higher limit, or use a mirror (agentkernel image pull --help)"
			return permanent{sandbox.Errorf(sandbox.Unavailable, hint, "%s allows no more downloads now: %w", host, err)}
		}
		err := sandbox.Errorf(sandbox.Unavailable, "try again later", "%s cannot serve %s: %w", host, repo, err)
		if refused.StatusCode < 500 {
			return permanent{err}
		}
		return err
	}
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return permanent{sandbox.Errorf(sandbox.Unavailable, "check the name, and whether this host reaches the network", "there is no registry %s: %w", host, err)}
	}
	if errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return sandbox.Errorf(sandbox.Unavailable, "check whether this host reaches the registry, and its proxy (HTTPS_PROXY)", "registry %s cannot be reached: %w", host, err)
}
