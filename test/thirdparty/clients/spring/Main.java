import com.nimbusds.jose.jwk.JWK;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.LinkedHashMap;
import java.util.Map;
import org.springframework.security.authentication.AnonymousAuthenticationToken;
import org.springframework.security.core.authority.AuthorityUtils;
import org.springframework.security.oauth2.client.AuthorizedClientServiceOAuth2AuthorizedClientManager;
import org.springframework.security.oauth2.client.ClientCredentialsOAuth2AuthorizedClientProvider;
import org.springframework.security.oauth2.client.InMemoryOAuth2AuthorizedClientService;
import org.springframework.security.oauth2.client.OAuth2AuthorizeRequest;
import org.springframework.security.oauth2.client.endpoint.NimbusJwtClientAuthenticationParametersConverter;
import org.springframework.security.oauth2.client.endpoint.OAuth2ClientCredentialsGrantRequest;
import org.springframework.security.oauth2.client.endpoint.OAuth2RefreshTokenGrantRequest;
import org.springframework.security.oauth2.client.endpoint.RestClientClientCredentialsTokenResponseClient;
import org.springframework.security.oauth2.client.endpoint.RestClientRefreshTokenTokenResponseClient;
import org.springframework.security.oauth2.client.registration.ClientRegistration;
import org.springframework.security.oauth2.client.registration.ClientRegistrations;
import org.springframework.security.oauth2.client.registration.InMemoryClientRegistrationRepository;
import org.springframework.security.oauth2.core.AuthorizationGrantType;
import org.springframework.security.oauth2.core.ClientAuthenticationMethod;
import org.springframework.security.oauth2.core.OAuth2AccessToken;
import org.springframework.security.oauth2.core.OAuth2AuthorizationException;
import org.springframework.security.oauth2.server.resource.introspection.BadOpaqueTokenException;
import org.springframework.security.oauth2.server.resource.introspection.SpringOpaqueTokenIntrospector;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.json.JsonMapper;

/**
 * Reads requests from standard input, one JSON object a line, and carries each
 * out with Spring Security's OAuth 2.0 client against ISSUER:
 * test/thirdparty/clients_test.go.
 */
class Main {
  static final JsonMapper JSON = new JsonMapper();

  public static void main(String[] args) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
    for (String line; (line = in.readLine()) != null; ) {
      Map<String, Object> answer;
      try {
        answer = carryOut(JSON.readTree(line));
      } catch (OAuth2AuthorizationException e) {
        answer = new LinkedHashMap<>();
        answer.put("error", e.getError().getErrorCode());
        answer.put("error_description", e.getError().getDescription());
      } catch (Exception e) {
        answer = Map.of("error", "", "error_description", e.toString());
      }
      System.out.println(JSON.writeValueAsString(answer));
    }
  }

  static String text(JsonNode request, String name) {
    return request.path(name).asString("");
  }

  static Map<String, Object> carryOut(JsonNode request) throws Exception {
    String action = text(request, "do");
    // From the metadata, each time anew: each request is another client.
    ClientRegistration.Builder found = ClientRegistrations.fromIssuerLocation(System.getenv("ISSUER"));
    ClientRegistration client = found
        .clientId(text(request, "client_id")).clientSecret(text(request, "client_secret"))
        .clientAuthenticationMethod(new ClientAuthenticationMethod(text(request, "auth").isEmpty() ? "none" : text(request, "auth")))
        .authorizationGrantType(action.equals("refresh") ? AuthorizationGrantType.REFRESH_TOKEN : AuthorizationGrantType.CLIENT_CREDENTIALS)
        .scope(text(request, "scope").isEmpty() ? new String[0] : text(request, "scope").split(" "))
        .build();
    switch (action) {
      case "discover":
        return client.getProviderDetails().getConfigurationMetadata();
      case "client_credentials":
        RestClientClientCredentialsTokenResponseClient endpoint = new RestClientClientCredentialsTokenResponseClient();
        if (text(request, "auth").equals("private_key_jwt")) {
          JWK key = JWK.parse(JSON.writeValueAsString(request.get("key")));
          endpoint.addParametersConverter(new NimbusJwtClientAuthenticationParametersConverter<OAuth2ClientCredentialsGrantRequest>(of -> key));
        }
        // As an application does it, which never sees the endpoint.
        ClientCredentialsOAuth2AuthorizedClientProvider provider = new ClientCredentialsOAuth2AuthorizedClientProvider();
        provider.setAccessTokenResponseClient(endpoint);
        InMemoryClientRegistrationRepository known = new InMemoryClientRegistrationRepository(client);
        AuthorizedClientServiceOAuth2AuthorizedClientManager manager =
            new AuthorizedClientServiceOAuth2AuthorizedClientManager(known, new InMemoryOAuth2AuthorizedClientService(known));
        manager.setAuthorizedClientProvider(provider);
        return Map.of("access_token", manager.authorize(OAuth2AuthorizeRequest.withClientRegistrationId(client.getRegistrationId())
            .principal(new AnonymousAuthenticationToken("test", "test", AuthorityUtils.createAuthorityList("ROLE_ANONYMOUS"))).build())
            .getAccessToken().getTokenValue());
      case "refresh":
        var tokens = new RestClientRefreshTokenTokenResponseClient().getTokenResponse(new OAuth2RefreshTokenGrantRequest(client,
            new OAuth2AccessToken(OAuth2AccessToken.TokenType.BEARER, "expired", java.time.Instant.EPOCH, java.time.Instant.EPOCH.plusSeconds(1)),
            new org.springframework.security.oauth2.core.OAuth2RefreshToken(text(request, "token"), null)));
        return Map.of("access_token", tokens.getAccessToken().getTokenValue(), "refresh_token", tokens.getRefreshToken().getTokenValue());
      case "introspect":
        SpringOpaqueTokenIntrospector introspector = SpringOpaqueTokenIntrospector
            .withIntrospectionUri((String) client.getProviderDetails().getConfigurationMetadata().get("introspection_endpoint"))
            .clientId(client.getClientId()).clientSecret(client.getClientSecret()).build();
        try {
          return Map.of("active", true, "sub", introspector.introspect(text(request, "token")).getAttribute("sub"));
        } catch (BadOpaqueTokenException e) {
          return Map.of("active", false);
        }
      default:
        throw new IllegalArgumentException(action);
    }
  }
}
