// shown in docs/verify.md from here
import com.nimbusds.jose.JOSEObjectType;
import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.jwk.source.JWKSourceBuilder;
import com.nimbusds.jose.proc.DefaultJOSEObjectTypeVerifier;
import com.nimbusds.jose.proc.JWSVerificationKeySelector;
import com.nimbusds.jose.proc.SecurityContext;
import com.nimbusds.jose.util.DefaultResourceRetriever;
import com.nimbusds.jwt.JWTClaimsSet;
import com.nimbusds.jwt.proc.DefaultJWTClaimsVerifier;
import com.nimbusds.jwt.proc.DefaultJWTProcessor;
import com.nimbusds.jwt.proc.JWTProcessor;

import java.net.URI;
import java.util.Set;

class Verifier {
    static JWTProcessor<SecurityContext> make(String issuer, String audience) throws Exception {
        var url = URI.create(issuer + "/.well-known/jwks.json").toURL();
        var http = new DefaultResourceRetriever(2000, 2000, 512 * 1024); // otherwise it gives up after 500 ms
        var keys = JWKSourceBuilder.create(url, http).build();
        var claims = new DefaultJWTClaimsVerifier<SecurityContext>(
            audience, new JWTClaimsSet.Builder().issuer(issuer).build(), Set.of("exp", "sub"));
        claims.setMaxClockSkew(30); // seconds; otherwise 60

        var processor = new DefaultJWTProcessor<SecurityContext>();
        processor.setJWSTypeVerifier(new DefaultJOSEObjectTypeVerifier<>(new JOSEObjectType("at+jwt"))); // otherwise JWT
        processor.setJWSKeySelector(new JWSVerificationKeySelector<>(JWSAlgorithm.RS256, keys));
        processor.setJWTClaimsSetVerifier(claims);
        return processor; // once for the process: processor.process(token, null) gives the claims
    }
}
// shown in docs/verify.md to here
