import com.nimbusds.jose.JOSEObjectType;
import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.jwk.source.JWKSourceBuilder;
import com.nimbusds.jose.proc.DefaultJOSEObjectTypeVerifier;
import com.nimbusds.jose.proc.JWSVerificationKeySelector;
import com.nimbusds.jose.proc.SecurityContext;
import com.nimbusds.jwt.JWTClaimsSet;
import com.nimbusds.jwt.proc.DefaultJWTClaimsVerifier;
import com.nimbusds.jwt.proc.DefaultJWTProcessor;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.util.Set;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/**
 * A verifier on trial in the drill (test/drill): Nimbus with its documentation's
 * settings. The protocol is that of ../golang/main.go.
 */
public class Victim {
    public static void main(String[] args) throws Exception {
        String issuer = args[1], jwks = args[3];
        int scale = Integer.parseInt(args[5]);
        var builder = JWKSourceBuilder.<SecurityContext>create(URI.create(jwks).toURL());
        if (scale > 1) {
            // How long to wait for the network is no cache: that is cut only
            // as far as the library insists, ahead + wait <= life.
            long life = JWKSourceBuilder.DEFAULT_CACHE_TIME_TO_LIVE / scale;
            long ahead = JWKSourceBuilder.DEFAULT_REFRESH_AHEAD_TIME / scale;
            builder.cache(life, Math.min(JWKSourceBuilder.DEFAULT_CACHE_REFRESH_TIMEOUT, life - ahead))
                .refreshAheadCache(ahead, false)
                .rateLimited(JWKSourceBuilder.DEFAULT_RATE_LIMIT_MIN_INTERVAL / scale);
        }
        var source = builder.build();
        var pool = Executors.newFixedThreadPool(8);
        System.out.println("ready");
        var in = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = in.readLine()) != null; ) {
            String[] part = line.split(" ", 3);
            pool.submit(() -> {
                String answer = "ok";
                try {
                    var claims = new DefaultJWTClaimsVerifier<SecurityContext>(part[1],
                        new JWTClaimsSet.Builder().issuer(issuer).build(), Set.of("sub", "exp"));
                    claims.setMaxClockSkew(DefaultJWTClaimsVerifier.DEFAULT_MAX_CLOCK_SKEW_SECONDS / scale);
                    var processor = new DefaultJWTProcessor<SecurityContext>();
                    processor.setJWSTypeVerifier(new DefaultJOSEObjectTypeVerifier<>(new JOSEObjectType("at+jwt")));
                    processor.setJWSKeySelector(new JWSVerificationKeySelector<>(JWSAlgorithm.RS256, source));
                    processor.setJWTClaimsSetVerifier(claims);
                    processor.process(part[2], null);
                } catch (Throwable e) {
                    answer = "no " + String.valueOf(e.getMessage()).replace('\n', ' ');
                }
                System.out.println(part[0] + " " + answer);
            });
        }
        pool.shutdown();
        pool.awaitTermination(10, TimeUnit.SECONDS);
        System.exit(0);
    }
}
